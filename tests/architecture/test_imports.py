"""The import rules of docs and design, read from the source.

cli -> pipeline -> stages -> store -> configs       downward only
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from configs.load import load_config, presets

ROOT = Path(__file__).parents[2]
LAYERS = ("configs", "store", "stages", "pipeline", "cli")
"""From the bottom up: a file imports from its own layer and those before it."""

FAMILIES = ("engines", "evaluators", "learners", "losses", "problem_sources")
"""Folders of stages/ whose members are exchangeable."""

SHARED = {
    # what any file may know of a family: its protocol, and its identity or choice by configuration (no member's insides)
    "stages.engines.protocol",
    "stages.engines.registry",
    "stages.models.files",
    "stages.runtime.device",
    "stages.runtime.determinism",
    "stages.evaluators.protocol",
    "stages.evaluators.registry",
    "stages.learners.protocol",
    "stages.learners.identity",
    "stages.learners.registry",
    "stages.problem_sources.protocol",
    "stages.problem_sources.registry",
    "stages.problem_sources.overlap",
}
COUNTERPARTS = {
    # a learner trains the weights that one engine samples from: the same files, loaded in the same way
    ("stages.learners.tabular", "stages.engines.scripted"),
    ("stages.learners.lora", "stages.engines.transformers.engine"),
    ("stages.learners.full", "stages.engines.transformers.engine"),
}
LIBRARY_HOMES = {
    "duckdb": ("store.",),
    "pyarrow": ("store.",),
    "prefect": ("pipeline.",),
    "prefect_dask": ("pipeline.flows.task_runners",),
    "prefect_ray": ("pipeline.flows.task_runners",),
    "httpx": ("stages.engines.vllm.http_client",),
    "tenacity": ("stages.engines.vllm.servers",),
    "vllm": ("stages.engines.vllm.in_process",),
    "torch": ("stages.engines.", "stages.learners.", "stages.losses.", "stages.training.trainer"),
    "scipy": ("stages.diagnostics.statistics", "stages.diagnostics.groups", "stages.diagnostics.intervals"),
    "sklearn": ("stages.learners.value_head",),
    "transformers": ("stages.engines.", "stages.learners."),
    "accelerate": ("stages.training.process_group", "stages.training.launch"),
    "peft": ("stages.engines.", "stages.learners."),
    "tensorboard": ("pipeline.trackers.tensorboard",),
    "wandb": ("pipeline.trackers.wandb",),
    "mlflow": ("pipeline.trackers.mlflow",),
    "typer": ("cli",),
}


@cache
def _sources() -> dict[str, ast.Module]:
    """Module name -> syntax tree, of everything but the tests."""
    files = [ROOT / "cli.py", *(path for layer in LAYERS[:-1] for path in (ROOT / layer).rglob("*.py"))]
    return {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(module: str, types_too: bool = True) -> set[str]:
    """Modules it imports anywhere, in functions too; those that only a type checker imports on demand."""
    tree = _sources()[module]
    found: set[str] = set()
    for node in ast.walk(tree) if types_too else _running(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = names & _sources().keys()
            found |= modules or {str(node.module)}
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes outside `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield child
            yield from _running(child)


def _family(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 and parts[0] == "stages" and parts[1] in FAMILIES else None


def _layer(module: str) -> int | None:
    top = module.split(".")[0]
    return LAYERS.index(top) if top in LAYERS else None


def _arrows() -> list[tuple[str, str]]:
    return [(module, found) for module in _sources() for found in sorted(_imports(module))]


def test_imports_go_downward_only() -> None:
    upward = [
        (module, found)
        for module, found in _arrows()
        if (layer := _layer(found)) is not None and layer > (_layer(module) or 0)
    ]
    assert upward == []


def test_no_module_is_imported_in_a_circle() -> None:
    # imports inside functions count too: a circle that is only put off is still a circle
    ours = _sources().keys()
    graph = {module: {found for found in _imports(module, types_too=False) if found in ours} for module in ours}
    assert set(TopologicalSorter(graph).static_order()) == set(ours)


def test_stage_files_do_not_import_each_other() -> None:
    declaring = {
        module
        for module, tree in _sources().items()
        if module.startswith("stages.")
        and any(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Stage"
            for node in ast.walk(tree)
        )
    }
    assert {"stages.rollout", "stages.grade", "stages.update", "stages.problems"} <= declaring
    assert [(module, found) for module, found in _arrows() if module in declaring and found in declaring] == []


def test_engines_evaluators_learners_and_losses_do_not_know_each_other() -> None:
    strangers = [
        (module, found)
        for module, found in _arrows()
        if (family := _family(module))
        and (other := _family(found))
        and other != family
        and found not in SHARED
        and (module, found) not in COUNTERPARTS
    ]
    assert strangers == []


@pytest.mark.parametrize(
    "chooser",
    [
        "stages.engines.registry",
        "stages.evaluators.registry",
        "stages.learners.registry",
        "stages.problem_sources.registry",
    ],
)
def test_members_of_a_family_do_not_know_each_other(chooser: str) -> None:
    # a member is what the chooser chooses from; the chat codec is a part of its engine
    codec = {"stages.models.chat_codec"}
    members = {found for found in _imports(chooser) if _family(found) == _family(chooser)} - SHARED - codec
    assert len(members) >= 2
    assert [(module, found) for module, found in _arrows() if module in members and found in members - {module}] == []


def test_what_is_shared_of_a_family_is_all_that_stages_and_the_pipeline_use_of_it() -> None:
    # losses are called by the trainer, lessons are its data: pure functions without a choice to hide
    allowed = {
        ("stages.training.trainer", "stages.losses.objective"),
        ("stages.training.trainer", "stages.losses.reductions"),
        ("stages.training.gradient_geometry", "stages.losses.objective"),
        ("stages.training.gradient_geometry", "stages.losses.reductions"),
    }
    inside = [
        (module, found)
        for module, found in _arrows()
        if _family(found) and not _family(module) and found not in SHARED and (module, found) not in allowed
    ]
    assert inside == []


@pytest.mark.parametrize("library", LIBRARY_HOMES)
def test_a_library_is_imported_only_where_it_lives(library: str) -> None:
    homes = LIBRARY_HOMES[library]
    astray = [module for module, found in _arrows() if found.split(".")[0] == library and not module.startswith(homes)]
    assert astray == []


def test_environment_variables_are_read_in_one_file() -> None:
    readers = {
        module
        for module, tree in _sources().items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb"))
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers == {"configs.environment"}


def test_exceptions_are_caught_blindly_only_at_the_evaluators_boundary() -> None:
    blind = {
        module
        for module, tree in _sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    }
    assert blind == {"stages.grade"}


@pytest.mark.parametrize(("users_own", "found"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_are_told_to_wait_asleep_before_torch_is_there_unless_the_user_says_otherwise(
    users_own: dict[str, str], found: str
) -> None:
    script = (
        "import atexit, os, sys, cli\n"
        "atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules))\n"
        "sys.argv = ['c3', '--help']\n"
        "cli.main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=environment | users_own,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == f"{found} False"


def test_nothing_heavy_is_loaded_with_the_command_line_or_the_commands() -> None:
    script = (
        "import sys, cli, pipeline.commands.run, pipeline.rounds.plan, pipeline.views.receipt\n"
        "print(sorted({'torch', 'transformers', 'peft', 'prefect', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_alone_loads_neither_duckdb_nor_pydantic() -> None:
    script = "import sys, cli; print(sorted({'duckdb', 'pyarrow', 'pydantic', 'numpy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_package_is_in_the_wheel() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for layer in LAYERS[:-1] for path in (ROOT / layer).rglob("*.py")
    }
    assert folders <= set(declared["packages"])
    assert declared["py-modules"] == ["cli"]


def test_every_data_file_is_in_the_wheel() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packed = {
        path
        for package, patterns in declared.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    data = {
        path
        for layer in LAYERS[:-1]
        for path in (ROOT / layer).rglob("*")
        if path.is_file() and path.suffix in (".sql", ".toml", ".txt", ".json")
    }
    assert data <= packed


@pytest.mark.parametrize("name", presets())
def test_every_preset_parses(name: str) -> None:
    assert load_config(name).plan.budget >= 1
