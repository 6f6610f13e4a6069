"""Variants: named branches of a run. A small file says where one branches and what it overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import ConfigError, StoreError
from store.disk.atomic import writing
from store.disk.layout import MAIN, Layout
from store.disk.locks import short_lock
from store.disk.records import write_record
from store.runs.records import read_record, recorded_redraw, round_steps, rounds


@dataclass(frozen=True, slots=True)
class Variant:
    """A branch: before this stage of this round it is its parent."""

    parent: str
    round: int
    stage: str
    overrides: tuple[str, ...]
    """As written after --set, in order."""


def find_variant(layout: Layout, run: str, name: str) -> Variant | None:
    """The variant of that name, or None. The main line is no variant."""
    if name == MAIN:
        return None
    record = read_record(layout.variant(run, name))
    if record is None:
        if rounds(layout, run, name):
            raise StoreError(
                f"{layout.variant(run, name)}: is missing, so what variant '{name}' changes is not known; put back a copy, "
                f"or choose another name with --variant"
            )
        return None
    return Variant(record["parent"], record["round"], record["stage"], tuple(record["overrides"]))


def record_variant(layout: Layout, run: str, name: str, variant: Variant) -> None:
    """Write a new variant down. ConfigError when the name stands for another one already."""
    path = layout.variant(run, name)
    with short_lock(layout, f"records-{run}", f"variant '{name}'"), writing(path.parent):
        found = find_variant(layout, run, name)
        if found is not None and found != variant:
            raise ConfigError(
                f"--variant {name}: is already the branch of {found.parent} at {found.stage} of round {found.round} "
                f"with {' '.join(found.overrides) or 'no overrides'}; choose another name for other overrides"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, asdict(variant))


def line_of(layout: Layout, run: str, name: str, round: int) -> str:
    """Whose record holds for a round of a variant: its own from the branch on, its parent's before."""
    variant = find_variant(layout, run, name)
    if variant is None or round >= variant.round:
        return name
    return line_of(layout, run, variant.parent, round)


def line_of_step(layout: Layout, run: str, name: str, round: int, step: str, order: Sequence[str]) -> str:
    """Whose record holds for one step of a round: a variant's own from the stage it branches at, its parent's before.

    `order` names every step in order.
    """
    line = line_of(layout, run, name, round)
    variant = find_variant(layout, run, line)
    if variant is None or round > variant.round or order.index(step) >= order.index(variant.stage):
        return line
    return line_of_step(layout, run, variant.parent, round, step, order)


def redraw_of(layout: Layout, run: str, name: str, round: int) -> int:
    """Which set of draws a round uses, 0 the first. A variant uses its parent's, unless it was asked for its own."""
    line = line_of(layout, run, name, round)
    said, variant = recorded_redraw(layout, run, round, line), find_variant(layout, run, line)
    if said is None and variant is not None and variant.round == round:
        return redraw_of(layout, run, variant.parent, round)
    return said or 0


def overrides_of(layout: Layout, run: str, name: str, round: int) -> Sequence[str]:
    """Every override that holds for a round of a variant, its parents' first."""
    variant = find_variant(layout, run, name)
    if variant is None:
        return ()
    before = overrides_of(layout, run, variant.parent, round)
    return (*before, *variant.overrides) if round >= variant.round else before


def steps_of(layout: Layout, run: str, name: str, round: int) -> dict[str, dict[str, Any]]:
    """The steps recorded for a round, on whichever line they lie."""
    return round_steps(layout, run, round, line_of(layout, run, name, round))
