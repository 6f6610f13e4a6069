"""Records of runs and rounds: what was recorded reads back, and is written only where it changed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from configs.errors import StoreError
from store.disk.layout import Layout
from store.runs.records import (
    InterventionRecord,
    Reference,
    RoundRecord,
    RoundRef,
    RoundSummary,
    RunRecord,
    StepRecord,
    config_at,
    edit_round,
    record_config,
    references,
    rounds,
    run_folders,
    runs,
    variants,
)

REF = RoundRef("a", 3)
GRADE = StepRecord("grade", "key", "digest")
FULL = RoundRecord(
    steps={"grade": GRADE},
    draw_set=2,
    independent_replays=4,
    retries={"grade": ["k1", "k2"]},
    failures={"update": "no memory"},
    summary=RoundSummary("content", {"mean_reward": 0.1}, [{"role": "actor", "groups": 3}]),
    interventions=[InterventionRecord({"role": "actor", "text": "é"}, {"intervention": GRADE})],
)


def _fill(layout: Layout, ref: RoundRef = REF) -> Path:
    with edit_round(layout, ref) as record:
        for name in RoundRecord.__slots__:  # type: ignore[attr-defined]
            setattr(record, name, getattr(FULL, name))
    return layout.round(ref.run, ref.variant, ref.round)


def test_a_round_reads_back_as_it_was_recorded(store: Path) -> None:
    _fill(Layout(store))
    assert RoundRecord.load(Layout(store), REF) == FULL


def test_a_round_that_has_not_begun_is_empty_and_reading_it_writes_nothing(store: Path) -> None:
    assert RoundRecord.load(Layout(store), REF) == RoundRecord()
    assert not store.exists()


def test_a_record_is_written_only_where_a_block_changed_it(store: Path) -> None:
    file = _fill(Layout(store))
    before = file.stat().st_mtime_ns, file.stat().st_ino
    with edit_round(Layout(store), REF) as record:
        record.steps["grade"] = StepRecord("grade", "key", "digest")
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    with edit_round(Layout(store), REF) as record:
        record.retries["grade"].append("k3")  # in place
    assert RoundRecord.load(Layout(store), REF).retries == {"grade": ["k1", "k2", "k3"]}


def test_nothing_is_written_when_a_block_fails_and_the_lock_is_released(store: Path) -> None:
    def fail() -> None:
        with edit_round(Layout(store), REF) as record:
            record.draw_set = 1
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
    assert RoundRecord.load(Layout(store), REF) == RoundRecord()


def test_no_edit_overwrites_another_made_at_once(store: Path) -> None:
    def add(number: int) -> None:
        with edit_round(Layout(store), REF) as record:
            record.retries[str(number)] = [str(number)]

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(20)))
    assert len(RoundRecord.load(Layout(store), REF).retries) == 20


def test_to_ask_again_is_the_same_question(store: Path) -> None:
    record = RoundRecord()
    first = record.add_intervention({"role": "actor", "text": "x"})
    first.steps["intervention"] = GRADE
    record.add_intervention({"role": "actor", "text": "y"})
    assert record.add_intervention({"text": "x", "role": "actor"}) is first
    assert [entry.question["text"] for entry in record.interventions] == ["x", "y"]
    assert record.find_intervention({"role": "actor", "text": "z"}) is None


def test_a_configuration_holds_from_its_round_on(store: Path) -> None:
    layout = Layout(store)
    assert RunRecord.load(layout, "a") is None and config_at(layout, "a", 1) is None
    assert record_config(layout, "a", 4, {"seed": 1})  # the first of a run holds from round 1
    assert record_config(layout, "a", 3, {"seed": 3})
    assert record_config(layout, "a", 5, {"seed": 5})
    assert not record_config(layout, "a", 6, {"seed": 5})
    assert [config_at(layout, "a", round) for round in range(7)] == [{"seed": s} for s in (1, 1, 1, 3, 3, 5, 5)]
    assert record_config(layout, "a", 3, {"seed": 33})  # in place of the one from there
    record = RunRecord.load(layout, "a")
    assert record is not None and record.configs == {1: {"seed": 1}, 3: {"seed": 33}, 5: {"seed": 5}}
    assert RunRecord().config_at(1) is None


def test_runs_variants_and_rounds_are_found_in_order(store: Path) -> None:
    layout = Layout(store)
    record_config(layout, "b", 1, {})
    record_config(layout, "a", 1, {})
    for ref in (RoundRef("a", 12), RoundRef("a", 2), RoundRef("a", 2, "early"), RoundRef("lost", 1)):
        _fill(layout, ref)
    assert runs(layout) == ["a", "b"] and run_folders(layout) == ["a", "b", "lost"]
    assert variants(layout, "a") == ["main", "early"]  # the main line first
    assert rounds(layout, "a") == [2, 12] and rounds(layout, "a", "early") == [2] and rounds(layout, "b") == []
    found = list(references(layout))
    assert found[:2] == [
        Reference("a", 2, "main", "grade", "grade", "key"),
        Reference("a", 2, "main", "intervention", "grade", "key"),
    ]
    assert len(found) == 8 and {entry.run for entry in found} == {"a", "lost"}


def test_a_corrupt_record_is_refused_with_the_cure(store: Path) -> None:
    file = _fill(Layout(store))
    file.write_text(file.read_text().replace("k1", "k7"))
    with pytest.raises(StoreError, match=r"round-00003\.json: corrupt .*; put back a copy, or delete it"):
        RoundRecord.load(Layout(store), REF)
    with pytest.raises(StoreError, match="corrupt"), edit_round(Layout(store), REF):
        pass
