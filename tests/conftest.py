"""What tests share: a store of their own, a round driven without Prefect, and one Prefect server per session."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest

from configs.evaluators import MathEvaluator
from configs.problems import JsonlProblems
from configs.schema import Config, PartsConfig, RoundConfig
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.worlds import solo

ROOT = Path(__file__).parents[1]
_SERVER_START_SECONDS = 300


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the user's store or server, nor what another test's command set. C3_CACHE stays: models are large."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name == "C3_STORE" or name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path_factory.getbasetemp() / "prefect-home"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Nobody pulls the plug in these tests; syncing every file would be a third of their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The root of an empty store."""
    return tmp_path / "store"


LONGEST = ("test_kills.py", "test_vllm.py")
"""Files of slow tests that are begun first: a worker has a file to itself, and the last one would be waited for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only the order; with --no-loadscope-reorder xdist keeps it."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], PlayedRound]:
    """The first round of a world under a plan, driven once per session. Its store is for reading only."""

    @cache
    def play(world: str, plan: str) -> PlayedRound:
        return drive(tmp_path_factory.mktemp(f"{world}-{plan}"), config_of(world, plan))

    return play


@dataclass(frozen=True)
class Answer:
    """What a finished `c3` command left on the terminal."""

    code: int
    out: str
    err: str


@pytest.fixture
def c3(tmp_path: Path) -> Callable[..., Answer]:
    """Runs `c3 ARGUMENTS` as a process of its own, in an empty folder; `env` adds variables."""

    def run(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path = tmp_path) -> Answer:
        return run_c3(cwd, *arguments, env=env)

    return run


def run_c3(cwd: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Answer:
    """`c3 ARGUMENTS` in a folder; `env` adds variables."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a Prefect server with an empty database. It takes 15 s to start, so there is one."""
    home = tmp_path_factory.mktemp("prefect-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    environment.pop("PREFECT_API_URL", None)
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _await(url, process, home / "server.log")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SERVER_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the test server did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def duo(played: Callable[[str, str], PlayedRound], store: Path) -> PlayedRound:
    """The duo's first round, in a store that may be written to."""
    copytree(played("duo", "tree").store, store)
    return drive_on(resolver_of(store, "test", 1))


@pytest.fixture
def sums(tmp_path: Path) -> Config:
    """A team of one that says 1, 2 or 3, graded by math-verify; at most two thirds may stay unscored."""
    problems = tmp_path / "sums.jsonl"
    problems.write_text("".join(f'{{"question": "q {i}", "answer": "{1 + i % 3}"}}\n' for i in range(4)))
    world = solo(
        (3,),
        words=("1", "2", "3"),
        problems=4,
        parts=PartsConfig(problems_per_part=2),
        rounds=RoundConfig(problems_per_round=4),
    )
    grade = world.grade.model_copy(update={"evaluator": MathEvaluator(), "max_unscored_share": 1.0})
    return world.model_copy(update={"problems": JsonlProblems(path=str(problems)), "grade": grade})


@pytest.fixture
def out_of_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names, line by line, answers at which the math evaluator's library breaks down for now.

    In place of math-verify, which takes seconds to come up again, a package of its name that compares texts.
    """
    folder = tmp_path / "library"
    (folder / "math_verify").mkdir(parents=True)
    (folder / "math_verify/__init__.py").write_text(
        "import pathlib, sys\n"
        "class ExprExtractionConfig: pass\n"
        "class LatexExtractionConfig:\n"
        "    def __init__(self, **options): pass\n"
        "def parse(text, **options):\n"
        "    return [text.removeprefix('\\\\boxed{').removesuffix('}')]\n"
        "def verify(answer, output, **options):\n"
        "    broken = pathlib.Path(__file__).parents[1] / 'out-of-order'\n"
        "    if output[0] in broken.read_text().splitlines():\n"
        "        sys.exit('out of order')\n"
        "    return answer == output\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder / "out-of-order"
