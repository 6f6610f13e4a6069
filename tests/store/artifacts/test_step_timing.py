"""How long optimiser steps took: in the parts' records, and in no digest."""

from __future__ import annotations

from pathlib import Path

from store.artifacts.artifact import Artifact, StageOutput
from store.artifacts.schemas import TABLES
from store.artifacts.step_timing import step_timing, timed_steps
from store.artifacts.writer import open_writer
from store.disk.layout import Layout


def _update(store: Path, key: str, *seconds: float) -> Artifact:
    """Two steps of 30 tokens each, timed where seconds are given."""
    rows = [{**dict.fromkeys(TABLES["steps"].names), "step": step, "tokens": 30} for step in (1, 2)]
    timing = [{"step": step, "seconds": taken} for step, taken in enumerate(seconds, start=1)]
    with open_writer(Layout(store), "update", key) as writer:
        return writer.finish([writer.write(0, StageOutput({"steps": rows}, step_timing=timing), 0.0)], {})


def test_a_timed_step_has_seconds_and_tokens_a_second(store: Path) -> None:
    found = timed_steps(_update(store, "a", 0.5, 2.0))
    assert [(row["seconds"], row["tokens_per_second"]) for row in found] == [(0.5, 60.0), (2.0, 15.0)]


def test_a_step_that_was_not_timed_has_neither_and_time_is_in_no_digest(store: Path) -> None:
    untimed = _update(store, "a")
    assert step_timing(untimed) == []
    assert {(row["seconds"], row["tokens_per_second"]) for row in timed_steps(untimed)} == {(None, None)}
    assert untimed.digest == _update(store, "b", 0.5, 2.0).digest
