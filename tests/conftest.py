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
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from configs.plan import EpisodesPlan, ReplayPlan, RoleReplays
from configs.role_graph import topological_order
from configs.schema import Config
from pipeline.execution.limits import Limits
from pipeline.execution.runner import PartsMaker, StepReport, make_part, make_step, reused
from pipeline.rounds.round import Scope
from pipeline.rounds.state import Look
from pipeline.steps import EVALUATION, ROUND, Step, names
from stages.base.resources import Resources
from store.artifacts.artifact import Artifact, Row
from store.artifacts.writer import ArtifactWriter, open_writer
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.support import worlds

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


@dataclass
class Round:
    """A round that ran: its artifacts and reports by step."""

    scope: Scope
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    reports: dict[str, StepReport] = field(default_factory=dict)

    @property
    def made(self) -> list[str]:
        """Steps of which at least one part was made now."""
        return [name for name, report in self.reports.items() if not report.reused]

    def rows(self, table: str, *steps: str) -> list[Row]:
        """A table's rows, of the named steps or of all."""
        wanted = steps or tuple(self.artifacts)
        return [row for step in wanted for row in self.artifacts[step].rows(table)]

    def by_id(self, table: str, column: str) -> Mapping[str, Row]:
        """A table's rows by an id that is unique."""
        rows = self.rows(table)
        found = {row[column]: row for row in rows}
        assert len(found) == len(rows)
        return found


def drive(
    store: Path,
    config: Config,
    round: int = 1,
    run: str = "test",
    until: str | None = None,
    steps: tuple[Step, ...] = ROUND,
    resources: Resources | None = None,
) -> Round:
    """One round with the pipeline's own parts, but no Prefect: looks, makes what is missing, checks, records.

    `tools` that drove before have their model loaded; without them everything is begun anew.
    """
    record_config(Layout(store), run, round, config.model_dump(mode="json"))
    return drive_on(Scope(store, run, round), until, steps, resources)


def drive_on(
    scope: Scope, until: str | None = None, steps: tuple[Step, ...] = ROUND, resources: Resources | None = None
) -> Round:
    """The same with what is recorded for the round already: its configuration, variant, redraw or retry."""
    result = Round(scope)
    resources = resources or Resources()
    steps = scope.steps if steps is ROUND else steps
    result.artifacts |= scope.artifacts_beside(steps)
    policy = result.scope.policy_after if steps is EVALUATION else None
    for step in steps[: names(steps).index(until) + 1] if until else steps:
        look = result.scope.look(step, result.artifacts, policy)
        artifact = look.artifact
        if artifact is not None:
            report = reused(look, artifact)
        else:
            with open_writer(result.scope.layout, step.stage.name, look.key) as writer:
                artifact, report = make_step(writer, look, _one_by_one(writer, look, resources))
        result.artifacts[step.name] = artifact
        result.reports[step.name] = report
        result.scope.record(step, artifact)
    return result


WORLDS: Mapping[str, Callable[..., Config]] = {
    "solo": worlds.solo,
    "duo": worlds.duo,
    "trio": worlds.trio,
    "diamond": worlds.diamond,
    "four_turns": worlds.four_turns,
    "chain_of_ten": worlds.chain_of_ten,
}
PLANS = ("tree", "replay", "episodes")
PLAYED = [(world, plan) for world in WORLDS for plan in PLANS]


def config_of(world: str, plan: str, **changes: Any) -> Config:
    """One of the worlds under one of the plans."""
    tree = WORLDS[world]()
    order = topological_order({role.name: role.depends_on for role in tree.roles})
    if plan == "tree":
        return WORLDS[world](**changes)
    if plan == "episodes":
        return WORLDS[world](plan=EpisodesPlan(budget=6), **changes)
    # the first role and the last: N (1 + (3 x 2 - 1) + (2 x 1 - 1)) = 2 x 7; a role alone: 2 x (1 + (3 x 1 - 1))
    last = {order[-1]: RoleReplays(alternatives=3 if len(order) == 1 else 2)}
    first = {order[0]: RoleReplays(alternatives=3, replays=2)} if len(order) > 1 else {}
    budget = 14 if first else 6
    return WORLDS[world](plan=ReplayPlan(transcripts=2, roles={**first, **last}, budget=budget), **changes)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Round]:
    """The first round of a world under a plan, driven once per session. Its store is for reading only."""

    @cache
    def play(world: str, plan: str) -> Round:
        return drive(tmp_path_factory.mktemp(f"{world}-{plan}"), config_of(world, plan))

    return play


def _one_by_one(writer: ArtifactWriter, look: Look, resources: Resources) -> PartsMaker:
    return lambda parts: [make_part(writer, look, part, resources, Limits()) for part in parts]


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
