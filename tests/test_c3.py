"""The public module: its examples run, it has every table, it is light to import, and it refuses to share a name."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

import c3
from configs.load import load_config
from configs.training import PolicyConfig
from stages.learners.lora.learner import LoraLearner
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from store.disk.layout import Layout
from store.queries.catalog_views import open_catalog
from store.runs.records import record_config
from tests.conftest import ROOT
from tests.support.rounds import config_of, drive
from tests.support.tiny_models import TARGETS, tiny_model

PUBLIC = [
    example for example in doctest.DocTestFinder(recurse=True).find(c3, "c3", extraglobs={"c3": c3}) if example.examples
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which the first round of the preset scripted-duo has run."""
    folder = tmp_path_factory.mktemp("notebook")
    drive(folder / "c3-store", load_config("scripted-duo"), run="default")
    return folder


def _is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def test_whatever_is_public_has_an_example() -> None:
    tree = ast.parse((ROOT / "c3.py").read_text(encoding="utf-8"))
    defined = {
        f"c3.{name}"
        for node in tree.body
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        for name in [
            node.name,
            *(f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)),
        ]
        if _is_public(name)
    }
    assert defined - {example.name for example in PUBLIC} == {
        "c3.main",
        "c3.claim_packages",
    }  # for Python, not for people


@pytest.mark.parametrize("example", PUBLIC, ids=[example.name for example in PUBLIC])
def test_an_example_does_what_it_says(
    example: doctest.DocTest, finished: Path, prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if example.name == "c3.run_iteration":  # in a process of its own: Prefect's settings are those of its import
        script = "import c3, doctest; doctest.run_docstring_examples(c3.run_iteration, {'c3': c3})"
        assert _python(script, tmp_path, PREFECT_API_URL=prefect_server) == ""
        return
    copytree(finished / "c3-store", tmp_path / "c3-store")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    doctest.DocTestRunner().run(example, out=said.append, clear_globs=False)
    assert not said, "".join(said)


def _python(script: str, folder: Path, **environment: str) -> str:
    """What a script prints that ends well."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_table_of_the_catalog_is_a_method_of_a_store_and_of_a_round(finished: Path) -> None:
    store = c3.open(finished / "c3-store")
    views = {name for (name,) in store.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()}
    tables = {"rounds", *(name for name in views if not name.endswith("_files"))}
    assert {name for name in vars(c3._Tables) if not name.startswith("_")} == tables
    for name in sorted(tables):
        whole, of_round = getattr(store, name)(), getattr(store.round("default", 1), name)()
        assert whole.columns[:3] == ["run", "round", "variant"] or name == "rounds", name
        assert whole.columns == of_round.columns
        assert sorted(whole.fetchall(), key=repr) == sorted(
            of_round.fetchall(), key=repr
        )  # the store has this one round


def test_a_round_has_its_own_rows_and_no_others(finished: Path, tmp_path: Path) -> None:
    copytree(finished / "c3-store", tmp_path / "c3-store")
    drive(tmp_path / "c3-store", load_config("scripted-duo"), round=2, run="default")
    store = c3.open(tmp_path / "c3-store")
    assert store.advantages().count("*").fetchall() == [(160,)]
    for number in (1, 2):
        rows = store.round("default", number).advantages()
        assert rows.project("round").distinct().fetchall() == [(number,)]
        assert rows.count("*").fetchall() == [(80,)]
    assert store.round("default", 1, "no-such-variant").advantages().fetchall() == []


def test_a_store_or_run_that_is_not_there_is_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(c3.StoreError, match="nowhere: no such store"):
        c3.open(tmp_path / "nowhere")
    with pytest.raises(c3.StoreError, match=r"run 'defualt': not in .* \(there is default\)"):
        c3.open(finished / "c3-store").round("defualt", 1)


def test_a_store_is_for_reading_only(finished: Path) -> None:
    store = c3.open(finished / "c3-store")
    with pytest.raises(c3.ConfigError, match="one SELECT at a time"):
        store.sql("DROP VIEW advantages")
    with pytest.raises(c3.ConfigError, match="file system operations are disabled"):
        store.sql("SELECT * FROM read_csv('/etc/passwd')")


def test_the_rows_are_those_of_the_command(finished: Path) -> None:
    text = "SELECT * FROM advantages ORDER BY decision_id"
    relation = open_catalog(Layout(finished / "c3-store")).sql(text)
    assert c3.open(finished / "c3-store").sql(text).fetchall() == relation.fetchall()


def test_a_policy_is_a_directory_that_peft_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round that ended with an adapter of a tiny model."""
    tiny_model().save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_text("{}")
    learner = LoraLearner(tiny_model(), {"team": PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"])})
    learner.load(initial_policy("base", ["team"]), seed=1)
    after = PolicyVersion("v", "base", {"team": Adapter("d", learner.save(tmp_path)["team"])})
    monkeypatch.setattr("pipeline.commands.export_policy.policy_after", lambda round: after)
    config = config_of("duo", "tree").model_dump(mode="json")
    config["engine"] = {"kind": "transformers", "model": str(tmp_path / "model")}
    record_config(Layout(tmp_path / "store"), "test", 1, config)
    store = c3.open(tmp_path / "store")
    assert store.policy("test", 1, tmp_path / "policy") == tmp_path / "policy"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert PeftModel.from_pretrained(model, tmp_path / "policy").peft_config["default"].r == 4
    assert store.policy("test", 1).is_dir()  # a temporary one


IN_A_CELL = """
import asyncio
import c3

async def cell():
    return c3.run_iteration(1, config="scripted-duo", until="grade")

result = asyncio.run(cell())
print(result.reports[-1].name, result.figures["evaluations"])
"""


def test_a_round_runs_inside_an_event_loop(prefect_server: str, tmp_path: Path) -> None:
    """As in a notebook, whose cells run in one."""
    assert _python(IN_A_CELL, tmp_path, PREFECT_API_URL=prefect_server) == "grade 64\n"


def test_importing_it_loads_nothing_heavy(tmp_path: Path) -> None:
    script = "import sys, c3; print(sorted({'torch', 'duckdb', 'prefect', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    assert _python(script, tmp_path) == "[]\n"


def test_a_module_of_the_users_that_has_the_name_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "__init__.py").write_text("mine = True\n")
    done = _import_both("configs", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: c3: a module named 'configs' was imported before c3, from {tmp_path}/configs/__init__.py, and C3 has "
        f"a package of that name in {ROOT}; one process can hold only one of them: rename yours, or use C3 in a process that "
        f"does not import it"
    )


def test_a_folder_of_that_name_that_is_no_package_is_found_too(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    done = _import_both("store", tmp_path)
    assert f"a module named 'store' was imported before c3, from {tmp_path}/store," in done.stderr


def _import_both(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A script in a folder with a module of its own: it imports that, and then c3."""
    script = f"import {name}, sys; sys.path.append({str(ROOT)!r}); import c3"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def test_importing_it_again_changes_nothing() -> None:
    before = list(sys.meta_path)
    importlib.import_module("c3").claim_packages()
    assert sys.meta_path == before


def test_names_that_are_not_there_are_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'c3' has no attribute 'opne'"):
        c3.opne  # noqa: B018
