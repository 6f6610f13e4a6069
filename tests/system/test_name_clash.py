"""C3's packages have plain names. Here the current folder holds packages of those names too, and C3 runs all the same.

C3 is installed from its wheel, so that nothing but the installation says where it lies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Any

import pytest

from configs.load import load_config
from stages.runtime.child_processes import child_search_path
from tests.conftest import ROOT
from tests.pipeline.flows.test_serving import finished_run
from tests.support.kill import contents, end
from tests.support.rounds import drive

TAKEN = ("configs", "pipeline", "stages", "store")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which C3 is installed from a wheel of this tree; bin/c3 below it is the command."""
    source = tmp_path_factory.mktemp("source")
    for name in TAKEN:
        copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    for name in ("c3.py", "cli.py", "pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, source / name)
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True, timeout=300, cwd=source)
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's project: packages of C3's names and a cli.py, each of which says so when it is imported."""
    for name in TAKEN:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the {name} of the user was imported')\n")
    (tmp_path / "cli.py").write_text("raise RuntimeError('the cli of the user was imported')\n")
    (tmp_path / "helper.py").write_text("mine = 'mine'\n")
    return tmp_path


@pytest.fixture(params=["", "."], ids=["plain", "PYTHONPATH=."])
def environment(request: pytest.FixtureRequest, site: Path, prefect_server: str) -> Mapping[str, str]:
    """Where C3 is installed comes last on the path, as site-packages do."""
    before = [request.param] if request.param else []
    path = os.pathsep.join([*before, str(site)])
    return {**os.environ, "PYTHONPATH": path, "PREFECT_API_URL": prefect_server, "COLUMNS": "200"}


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def _parquet(store: Path) -> dict[str, Any]:
    return {name: content for name, content in contents(store).items() if name.endswith(".parquet")}


def test_the_command_runs_a_round_there(
    folder: Path, site: Path, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = [sys.executable, str(site / "bin" / "c3"), "run", "iteration", "--round", "1", "--config", "scripted-duo"]
    done = _run(command, folder, environment)
    assert done.returncode == 0, done.stderr
    expected = tmp_path_factory.mktemp("expected")
    drive(expected, load_config("scripted-duo"), run="default")
    assert _parquet(expected) and _parquet(folder / "c3-store") == _parquet(expected)


def test_the_module_runs_a_round_there(folder: Path, environment: Mapping[str, str]) -> None:
    (folder / "script.py").write_text(
        "import c3\n"
        "result = c3.run_iteration(1, config='scripted-duo')\n"
        "assert [report.name for report in result.reports][-1] == 'update'\n"
        "assert c3.open().round('default', 1).advantages().count('*').fetchall() == [(80,)]\n"
        "import helper\n"
        "print(helper.mine)\n"
    )
    done = _run([sys.executable, "script.py"], folder, environment)
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr


SPAWNED = """
import multiprocessing
import c3
from stages.runtime.child_processes import own_packages_first
from stages.problem_sources.protocol import Problem

with own_packages_first(), multiprocessing.get_context("spawn").Pool(1) as pool:
    print(pool.apply(Problem, ("id", "suite", "question", "answer")).answer)
"""

GRADED = """
import c3
from stages.evaluators.math import MathGrader
from stages.problem_sources.protocol import Problem

grader = MathGrader()
print(grader.grade(r"\\boxed{\\frac{1}{2}}", Problem("id", "suite", "question", "0.5")).reward)
grader.close()
"""


def test_a_spawned_process_finds_c3s_packages(folder: Path, environment: Mapping[str, str]) -> None:
    """As the update's processes and vLLM's are started; from `-c`, as in a notebook, the child imports no c3 by itself."""
    done = _run([sys.executable, "-c", SPAWNED], folder, environment)
    assert (done.returncode, done.stdout) == (0, "answer\n"), done.stderr


def test_the_math_evaluators_process_finds_c3s_packages(folder: Path, environment: Mapping[str, str]) -> None:
    pytest.importorskip("math_verify", reason="needs the extra: pip install 'c3-credit[math]'")
    done = _run([sys.executable, "-c", GRADED], folder, environment)
    assert (done.returncode, done.stdout) == (0, "1.0\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_workers_find_c3s_packages(runner: str, folder: Path, environment: Mapping[str, str]) -> None:
    pytest.importorskip(f"prefect_{runner}", reason=f"needs the extra: pip install 'c3-credit[{runner}]'")
    overrides = [f"workers.runner={runner}", "workers.count=2"]
    (folder / "script.py").write_text(
        "if __name__ == '__main__':\n"
        "    import c3\n"
        f"    result = c3.run_iteration(1, config='scripted-duo', overrides={overrides!r})\n"
        "    print([report.reused for report in result.reports])\n"
    )
    done = _run([sys.executable, "script.py"], folder, environment)
    assert (done.returncode, done.stdout) == (0, f"{[False] * 8}\n"), done.stderr


@pytest.mark.slow
def test_a_round_started_from_the_page_finds_c3s_packages(
    folder: Path, site: Path, environment: Mapping[str, str], prefect_server: str
) -> None:
    """Prefect runs it in a process of its own, with the folder that `c3 serve` was started in first on its path."""
    with (folder / "serve.log").open("wb") as log:
        serving = subprocess.Popen(
            [sys.executable, str(site / "bin" / "c3"), "serve"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        state = finished_run(prefect_server, {"run": "asked", "round": 1, "config": "scripted-duo"})
        assert state["type"] == "COMPLETED", (folder / "serve.log").read_text()
    finally:
        end(serving)


def test_without_a_clash_a_child_gets_the_path_as_it_is() -> None:
    assert child_search_path() == sys.path
