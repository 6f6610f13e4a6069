"""Garbage: what no record refers to, directly or as an input."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.artifacts.artifact import Artifact, StageOutput
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
from store.runs.garbage import garbage, sweep
from store.runs.records import RoundRef, StepRecord, edit_round


def _made(layout: Layout, key: str, *inputs: Artifact) -> Artifact:
    given = {entry.key: {"stage": entry.stage, "key": entry.key, "digest": entry.digest} for entry in inputs}
    with open_writer(layout, "stage", key) as writer:
        return writer.finish([writer.write(0, StageOutput({"problems": []}), 0.0)], {"inputs": given})


@pytest.fixture
def layout(store: Path) -> Layout:
    """A round that refers to `made`, which was made from `given`; and two folders that nothing refers to."""
    layout = Layout(store)
    made = _made(layout, "made", _made(layout, "given"))
    _made(layout, "unused")
    with open_writer(layout, "stage", "unfinished") as writer:
        writer.write(0, StageOutput({"problems": []}), 0.0)
    with edit_round(layout, RoundRef("a", 1)) as record:
        record.steps["stage"] = StepRecord("stage", "made", made.digest)
    return layout


def test_what_is_referred_to_is_kept_with_everything_it_was_made_from(layout: Layout) -> None:
    found = {entry.key: entry for entry in garbage(layout)}
    assert list(found) == ["unfinished", "unused"]
    assert (found["unfinished"].finished, found["unused"].finished) == (False, True)
    size = sum(path.stat().st_size for path in found["unused"].path.rglob("*") if path.is_file())
    assert found["unused"].bytes == size > 0


def test_an_answer_to_a_question_is_referred_to(layout: Layout) -> None:
    with edit_round(layout, RoundRef("a", 1)) as record:
        record.add_intervention({"text": "x"}).steps["intervention"] = StepRecord("stage", "unused", "digest")
    assert [entry.key for entry in garbage(layout)] == ["unfinished"]


def test_sweeping_removes_and_leaves_what_a_live_writer_has_locked(layout: Layout) -> None:
    locked, free = garbage(layout)
    with exclusive_lock(layout, "stage-unfinished", "it"):
        assert not sweep(layout, locked)
    assert sweep(layout, free)
    assert locked.path.exists() and not free.path.exists()
    assert [entry.key for entry in garbage(layout)] == ["unfinished"]
