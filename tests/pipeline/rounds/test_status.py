"""`c3 status` tells what was made, reused, is running, failed, corrupt or missing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from shutil import copytree

from rich.console import Console

from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import make_part
from pipeline.rounds.recording import record_failure
from pipeline.rounds.status import RoundStatus, round_statuses
from pipeline.steps import DIAGNOSIS, step_named
from pipeline.views.status import show_status
from stages.base.resources import Resources
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
from store.runs.records import RoundRef, edit_round
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.stores import NO_LOO, variant_of

Played = Callable[[str, str], PlayedRound]


def _status_of(store: Path, round: int = 1, variant: str = "main", run: str = "test") -> RoundStatus:
    for entry in round_statuses(Layout(store), run):
        if (entry.round, entry.variant) == (round, variant):
            return entry
    raise AssertionError("not there")


def test_status_tells_what_was_made_reused_and_is_missing(duo: PlayedRound) -> None:
    store = duo.store
    drive_on(variant_of(duo, "no-loo", NO_LOO), until="advantages")
    main, branch = _status_of(store), _status_of(store, variant="no-loo")
    round = ["problems", "rollout", "freeze", "sample", "replay", "grade", "advantages", "update"]
    assert [main.states[name] for name in round] == ["made"] * 8
    assert [branch.states[name] for name in round] == ["reused"] * 6 + ["made", "missing"]
    assert main.states["evaluate"] == "missing"


def test_status_tells_partial_running_failed_and_corrupt_and_why(duo: PlayedRound) -> None:
    store, layout = duo.store, duo.layout
    grade, rollout = duo.artifacts["grade"], duo.artifacts["rollout"]
    (grade.path / "manifest.json").unlink()
    shutil.rmtree(grade.path / "part-00001")
    assert _status_of(store).states["grade"] == "corrupt"  # it was whole once
    drive(store, config_of("duo", "tree", seed=5), run="begun", until="replay")
    begun = resolver_of(store, "begun", 1)
    look = next(look for look in begun.resolve_steps().steps if look.step.name == "grade")
    with open_writer(layout, "grade", look.key) as writer:
        copytree(grade.path / "part-00000", writer.path / "part-00000")
        status = _status_of(store, run="begun")
        assert status.states["grade"] == "running"
        assert status.notes[0].startswith(f"begun round 1 main grade: process {os.getpid()} on ")
    assert _status_of(store, run="begun").states["grade"] == "partial"
    record_failure(begun, look.step, "the grader fell over")
    status = _status_of(store, run="begun")
    assert status.states["grade"] == "failed"
    assert status.notes == ["begun round 1 main grade: the grader fell over"]
    with exclusive_lock(layout, f"rollout-{rollout.key}", "it"):
        assert _status_of(store).states["rollout"] == "made"  # held by a reader of the same key, but it is there
    shutil.rmtree(rollout.path)
    assert _status_of(store).states["rollout"] == "corrupt"


def _status(store: Path, width: int = 80) -> list[dict[str, str]]:
    """The table of `c3 status`, by its headings, which stand where their column begins."""
    console = Console(file=StringIO(), record=True, width=width)
    show_status(console, round_statuses(Layout(store)))
    headings, *lines = [line for line in console.export_text().splitlines() if line.strip()]
    places = [(found[0], found.start()) for found in re.finditer(r"\S+", headings)]
    ends = [start for _, start in places[1:]] + [width]
    return [{name: line[start:end].strip() for (name, start), end in zip(places, ends, strict=True)} for line in lines]


USUAL = ["run", "variant", "round", "roll", "frz", "samp", "repl", "grade", "adv", "upd", "eval", "diag"]


def test_status_has_columns_for_the_steps_that_only_some_rounds_have_where_one_has_them(duo: PlayedRound) -> None:
    store = duo.store
    [main] = _status(store)
    assert list(main) == USUAL
    drive_on(duo.resolver, steps=DIAGNOSIS)  # without a replay of its own
    [main] = _status(store)
    assert (list(main), main["diag"]) == (USUAL, "ok")

    solo = drive_on(variant_of(duo, "ccpo", ["advantages.estimator=ccpo"]), until="ablated_replay")
    main, branch = _status(store)
    assert list(branch) == [*USUAL[:8], "abl", "ablgr", *USUAL[8:]]
    assert (main["abl"], main["ablgr"], branch["abl"], branch["ablgr"]) == ("", "", "ok", ".")
    (solo.artifacts["ablated_replay"].path / "manifest.json").unlink()
    shutil.rmtree(solo.artifacts["ablated_replay"].path / "part-00001")
    assert _status(store)[1]["abl"] == "BROKEN"
    record_failure(solo.resolver, step_named("ablated_grade"), "the grader fell over")
    assert _status(store)[1]["ablgr"] == "FAILED"


def test_status_has_a_column_for_learned_values_and_for_replays_that_were_bought(duo: PlayedRound) -> None:
    store = duo.store
    drive_on(variant_of(duo, "mappo", ["advantages.estimator=mappo"]))
    main, branch = _status(store, 100)
    assert list(branch) == [*USUAL[:8], "crit", *USUAL[8:]]
    assert (main["crit"], branch["crit"]) == ("", "ok")
    with edit_round(duo.layout, RoundRef("test", 1)) as record:
        record.independent_replays = 2
    resolver = resolver_of(store, "test", 1)
    look = resolver.resolve(step_named("independent_replay"), resolver.inputs_of(DIAGNOSIS))
    with open_writer(duo.layout, "independent_replay", look.key) as writer:
        make_part(writer, look, look.step.stage.cut(look.job)[1], ExecutionContext(resources=Resources()))
    main, branch = _status(store, 100)
    assert list(main) == [*USUAL[:8], "crit", *USUAL[8:11], "indep", "indgr", "diag"]
    assert [(line["indep"], line["indgr"]) for line in (main, branch)] == [("part", "."), ("", "")]
    drive_on(resolver_of(store, "test", 1), steps=DIAGNOSIS)
    assert [(line["indep"], line["indgr"], line["diag"]) for line in _status(store, 100)] == [
        ("ok", "ok", "ok"),
        ("", "", "."),
    ]
