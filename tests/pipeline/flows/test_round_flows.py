"""Rounds as Prefect sees them, on one server for all tests; each command is a process of its own, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from configs.load import load_config
from store.disk.layout import Layout
from store.runs.records import RoundRecord, RoundRef
from tests.conftest import ROOT, Answer
from tests.store.artifacts.test_integrity import HARMS
from tests.support.kill import contents
from tests.support.rounds import drive

Command = Callable[..., Answer]
STEPS = ["problems", "rollout", "freeze", "sample", "replay", "grade", "advantages", "update"]


def _ask(server: str, what: str, **conditions: Any) -> list[dict[str, Any]]:
    body = json.dumps({"sort": "START_TIME_ASC" if what == "flow_runs" else "EXPECTED_START_TIME_ASC", **conditions})
    request = urllib.request.Request(
        f"{server}/{what}/filter", body.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


def _flow_runs(server: str, name: str) -> list[dict[str, Any]]:
    return _ask(server, "flow_runs", flow_runs={"name": {"any_": [name]}})


def _states(server: str, flow_run: dict[str, Any]) -> dict[str, str]:
    """Task run name -> the name of its state. A busy server takes in the last of a run's events after the run has ended."""
    deadline = time.monotonic() + 60
    while True:
        runs = _ask(server, "task_runs", flow_runs={"id": {"any_": [flow_run["id"]]}})
        if all(run["state"] for run in runs) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    states = {run["name"]: run["state"]["name"] for run in runs}
    assert len(states) == len(runs)
    return states


@pytest.fixture
def reporting(c3: Command, prefect_server: str, store: Path) -> Command:
    """`c3` in this test's store, reporting to the session's server."""

    def run(*arguments: str) -> Answer:
        answer = c3(*arguments, "--store", str(store), env={"PREFECT_API_URL": prefect_server})
        assert answer.code == 0, answer.err
        return answer

    return run


def test_a_round_is_seen_with_its_steps_and_their_parts_by_name(
    reporting: Command, prefect_server: str, store: Path
) -> None:
    iteration = ("run", "iteration", "--config", "scripted-duo", "--run", "seen", "--round", "1")
    reporting(*iteration)
    [first] = _flow_runs(prefect_server, "seen · round 1")
    assert first["state"]["name"] == "Completed"
    assert (first["parameters"]["run"], first["parameters"]["round"], first["parameters"]["store"]) == (
        "seen",
        1,
        str(store),
    )
    states = _states(prefect_server, first)
    assert [name for name in states if " of " not in name and states[name] != "Completed"] == []
    # 8 problems of a round in parts of 4
    parts = {
        f"part-{i:05d} of {step} · round 1"
        for step in ("rollout", "freeze", "sample", "replay", "grade")
        for i in (0, 1)
    }
    assert {f"{step} · round 1" for step in STEPS} | parts <= set(states)

    reporting(*iteration)  # nothing to do: every step shows as reused, and no part is asked for
    [again] = [run for run in _flow_runs(prefect_server, "seen · round 1") if run["id"] != first["id"]]
    assert _states(prefect_server, again) == {f"{step} · round 1": "Cached" for step in STEPS}

    # Prefect still remembers the grades, but they are gone: not a hit
    entry = RoundRecord.load(Layout(store), RoundRef("seen", 1)).steps["grade"]
    rmtree(Layout(store).artifact(entry.stage, entry.key))
    reporting(*iteration)
    known = {first["id"], again["id"]}
    [third] = [run for run in _flow_runs(prefect_server, "seen · round 1") if run["id"] not in known]
    states = _states(prefect_server, third)
    assert {name: state for name, state in states.items() if state != "Cached"} == {
        "grade · round 1": "Completed",
        "part-00000 of grade · round 1": "Completed",
        "part-00001 of grade · round 1": "Completed",
    }
    assert RoundRecord.load(Layout(store), RoundRef("seen", 1)).steps["grade"] == entry

    # nor is a rollout with a corrupt part: that part is made again, and nothing else
    entry = RoundRecord.load(Layout(store), RoundRef("seen", 1)).steps["rollout"]
    harmed = Layout(store).part(entry.stage, entry.key, 1) / "decisions.parquet"
    whole = harmed.read_bytes()
    harmed.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    reporting(*iteration)
    known.add(third["id"])
    [fourth] = [run for run in _flow_runs(prefect_server, "seen · round 1") if run["id"] not in known]
    states = _states(prefect_server, fourth)
    assert {name: state for name, state in states.items() if state != "Cached"} == {
        "rollout · round 1": "Completed",
        "part-00001 of rollout · round 1": "Completed",
    }
    assert states["part-00000 of rollout · round 1"] == "Cached"
    assert harmed.read_bytes() == whole


def test_a_round_that_fails_inside_the_flow_says_why_in_one_line(
    c3: Command, prefect_server: str, store: Path, tmp_path: Path
) -> None:
    environment = {"PREFECT_API_URL": prefect_server, "C3_STORE": str(store)}
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"question": "a", "answer": "{\\"ant\\": 1}"}\n{"question": \n')
    options = (
        "run",
        "iteration",
        "--config",
        "scripted-duo",
        "--run",
        "broken",
        "--round",
        "1",
        "--set",
        "rounds.problems_per_round=1",
    )
    source = f"problems={{source='jsonl', path='{problems}'}}"
    answer = c3(*options, "--set", source, env=environment)
    assert answer.code == 2
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith(f"c3: {problems}: line 2: broken JSON")
    assert list((store / "artifacts").rglob("manifest.json")) == []
    [failed] = _flow_runs(prefect_server, "broken · round 1")
    assert failed["state"]["name"] == "Failed"


def test_a_finished_round_needs_neither_server_nor_prefect_nor_torch_nor_duckdb(store: Path) -> None:
    drive(store, load_config("scripted-duo"), run="default")
    script = (
        "import sys, cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'prefect', 'torch', 'transformers', 'pyarrow', 'numpy', 'scipy', 'sklearn', 'duckdb'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    told = []
    for loaded in (["duckdb"], []):  # the first to tell the round's figures asks for them and records them
        done = subprocess.run(
            [sys.executable, "-c", script, "run", "iteration", "--round", "1", "--store", str(store)],
            cwd=ROOT,
            env=dict(os.environ),
            capture_output=True,
            text=True,
            check=True,
        )
        *lines, imported = done.stdout.splitlines()
        assert imported == str(loaded)
        told.append(lines)
    assert told[0] == told[1]
    assert "reused" in done.stdout


_TOLD = """
import sys
from pipeline.execution.context import ExecutionContext
from pipeline.flows import round_flows, server
from prefect import flow
from prefect.events.worker import EventsWorker
from prefect.settings import get_current_settings
server._temporary += [("", None)] * (sys.argv[1] == "temporary")
round_flows.connect()
round_flows.connect()
told = lambda: (get_current_settings().flows.heartbeat_frequency, EventsWorker.instance().client_type.__name__)
print(*round_flows.RoundFlows(ExecutionContext()).start(flow(told)))
"""


@pytest.mark.parametrize(
    ("server", "told"), [("temporary", "None NullEventsClient"), ("lasting", "180 PrefectEventsClient")]
)
def test_only_a_server_that_outlives_the_command_is_told_of_events_and_that_a_flow_still_runs(
    server: str, told: str, prefect_server: str
) -> None:
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [sys.executable, "-c", _TOLD, server], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == (told, "")


@pytest.mark.slow
def test_a_question_and_a_round_with_ablated_replays_are_seen_too(
    reporting: Command, prefect_server: str, store: Path
) -> None:
    drive(store, load_config("scripted-duo"), run="asked")
    question = ("what-if", "--role", "reasoner", "--empty", "--run", "asked", "--round", "1")
    assert "(there already)" not in reporting(*question).out
    [first] = _flow_runs(prefect_server, "asked · what if, round 1")
    states = _states(prefect_server, first)
    assert {name for name in states if " of " not in name} == {"intervention · round 1", "intervention_grade · round 1"}
    assert set(states.values()) == {"Completed"}
    assert "(there already)" in reporting(*question).out
    again = _flow_runs(prefect_server, "asked · what if, round 1")[-1]
    assert set(_states(prefect_server, again).values()) == {"Cached"}
    ccpo = ("--variant", "ccpo", "--set", "advantages.estimator=ccpo")
    reporting("run", "iteration", "--run", "asked", "--round", "1", *ccpo)
    steps = _states(prefect_server, _flow_runs(prefect_server, "asked · round 1")[-1])
    solo = {name: state for name, state in steps.items() if name.startswith("ablated") and " of " not in name}
    assert solo == {"ablated_replay · round 1": "Completed", "ablated_grade · round 1": "Completed"}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS)
def test_what_prefect_remembers_of_a_finished_round_may_be_corrupt(
    harm: Callable[[Path], object], reporting: Command, prefect_server: str, store: Path
) -> None:
    run = f"forgetful-{harm.__name__.replace('_', '-')}"
    drive(store, load_config("scripted-duo"), run=run)
    before = contents(store)
    stage = ("run", "stage", "grade", "--run", run, "--round", "1")
    reporting(*stage)
    remembered = [path for path in (store / "prefect/results").rglob("*") if path.is_file()]
    assert len(remembered) == 1
    harm(remembered[0])
    for _ in range(2):  # and what is remembered is whole again
        answer = reporting(*stage)
        assert answer.err == "" and "reused" in answer.out
    assert contents(store) == before
    *_, last = _flow_runs(prefect_server, f"{run} · round 1 · grade")
    assert _states(prefect_server, last) == {"grade · round 1": "Cached"}
