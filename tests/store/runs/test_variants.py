"""Variants: before its branch point a variant has no records of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import ConfigError, StoreError
from store.disk.layout import Layout
from store.runs.records import RoundRef, StepRecord, edit_round
from store.runs.variants import (
    Variant,
    draw_set_of,
    find_variant,
    line_of,
    line_of_step,
    overrides_of,
    record_variant,
    steps_of,
)

ORDER = ("rollout", "grade", "update")
CHILD = Variant("main", 2, "grade", ("a=1",))
GRANDCHILD = Variant("child", 3, "update", ("b=2", "c=3"))


def _ref(round: int, variant: str = "grandchild") -> RoundRef:
    return RoundRef("a", round, variant)


@pytest.fixture
def layout(store: Path) -> Layout:
    """A run with a variant, and a variant of that one."""
    record_variant(Layout(store), "a", "child", CHILD)
    record_variant(Layout(store), "a", "grandchild", GRANDCHILD)
    return Layout(store)


def test_a_variant_reads_back_and_the_main_line_is_none(layout: Layout) -> None:
    assert find_variant(layout, "a", "grandchild") == GRANDCHILD
    assert find_variant(layout, "a", "main") is None and find_variant(layout, "a", "other") is None


def test_a_name_stands_for_one_branch(layout: Layout) -> None:
    record_variant(layout, "a", "child", CHILD)
    with pytest.raises(ConfigError, match="is already the branch of main at grade of round 2 with a=1; choose another"):
        record_variant(layout, "a", "child", GRANDCHILD)


def test_a_variant_with_rounds_and_no_file_is_not_taken_for_the_main_line(layout: Layout) -> None:
    with edit_round(layout, _ref(3, "child")) as record:
        record.draw_set = 1
    layout.variant("a", "child").unlink()
    with pytest.raises(StoreError, match=r"variant\.json: is missing"):
        find_variant(layout, "a", "child")


def test_the_record_that_holds_is_the_parents_before_the_branch(layout: Layout) -> None:
    assert [line_of(layout, _ref(round)).variant for round in (1, 2, 3, 4)] == ["main", "child", *2 * ["grandchild"]]
    # at its branch point a variant shares the steps before its stage
    assert [line_of_step(layout, _ref(3), step, ORDER).variant for step in ORDER] == ["child", "child", "grandchild"]
    assert [line_of_step(layout, _ref(2), step, ORDER).variant for step in ORDER] == ["main", "child", "child"]
    assert [line_of_step(layout, _ref(4), step, ORDER).variant for step in ORDER] == 3 * ["grandchild"]
    assert line_of_step(layout, _ref(3), "grade", ORDER) == _ref(3, "child")


def test_overrides_add_up_from_the_parents_on(layout: Layout) -> None:
    assert [overrides_of(layout, _ref(round)) for round in (1, 2, 3)] == [(), ("a=1",), ("a=1", "b=2", "c=3")]
    assert overrides_of(layout, _ref(3, "main")) == ()


def test_a_variant_uses_its_parents_draws_at_its_branch_unless_its_own_were_requested(layout: Layout) -> None:
    assert draw_set_of(layout, _ref(3)) == 0
    with edit_round(layout, _ref(3, "child")) as record:
        record.draw_set = 2
    assert draw_set_of(layout, _ref(3)) == 2
    with edit_round(layout, _ref(3)) as record:
        record.draw_set = 0
    assert draw_set_of(layout, _ref(3)) == 0
    with edit_round(layout, _ref(4, "child")) as record:
        record.draw_set = 2
    assert draw_set_of(layout, _ref(4)) == 0  # after its branch point nothing is the parent's


def test_steps_are_read_from_the_line_that_holds(layout: Layout) -> None:
    entry = StepRecord("grade", "key", "digest")
    with edit_round(layout, _ref(1, "main")) as record:
        record.steps["grade"] = entry
    assert steps_of(layout, _ref(1)) == {"grade": entry} and steps_of(layout, _ref(2)) == {}
