"""Variants: named branches of a run. A small file says where one branches off and what it overrides.

Before its branch point a variant has no records of its own: there its parent's hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from configs.errors import ConfigError, StoreError
from store.disk.layout import MAIN, Layout
from store.runs.records import RoundRecord, RoundRef, StepRecord, load_record, rounds, run_lock, write_run_file


@dataclass(frozen=True, slots=True)
class Variant:
    """A branch: before this stage of this round it is its parent."""

    parent: str
    round: int
    stage: str
    overrides: tuple[str, ...]
    """As written after --set, in order."""


def find_variant(layout: Layout, run: str, name: str) -> Variant | None:
    """Return the variant of that name, or None; the main line is none. StoreError when its file is lost or corrupt."""
    if name == MAIN:
        return None
    record = load_record(layout.variant(run, name))
    if record is None:
        if rounds(layout, run, name):
            raise StoreError(
                f"{layout.variant(run, name)}: is missing, so what variant '{name}' changes is not known; put back a copy, "
                f"or choose another name with --variant"
            )
        return None
    return Variant(record["parent"], record["round"], record["stage"], tuple(record["overrides"]))


def record_variant(layout: Layout, run: str, name: str, variant: Variant) -> None:
    """Record a new variant. ConfigError when the name stands for another one already."""
    with run_lock(layout, run):
        found = find_variant(layout, run, name)
        if found is not None and found != variant:
            raise ConfigError(
                f"--variant {name}: is already the branch of {found.parent} at {found.stage} of round {found.round} "
                f"with {' '.join(found.overrides) or 'no overrides'}; choose another name for other overrides"
            )
        write_run_file(layout.variant(run, name), asdict(variant))


def line_of(layout: Layout, ref: RoundRef) -> RoundRef:
    """Return the round whose record holds: the variant's own from its branch point on, its parent's before."""
    variant = find_variant(layout, ref.run, ref.variant)
    if variant is None or ref.round >= variant.round:
        return ref
    return line_of(layout, replace(ref, variant=variant.parent))


def line_of_step(layout: Layout, ref: RoundRef, step: str, order: Sequence[str]) -> RoundRef:
    """Return the round whose record holds for a step: the variant's own from where it branches, its parent's before.

    `order` names every step in order.
    """
    line = line_of(layout, ref)
    variant = find_variant(layout, line.run, line.variant)
    if variant is None or line.round > variant.round or order.index(step) >= order.index(variant.stage):
        return line
    return line_of_step(layout, replace(line, variant=variant.parent), step, order)


def draw_set_of(layout: Layout, ref: RoundRef) -> int:
    """Return which set of draws a round uses, 0 the first. A variant uses its parent's unless its own was requested."""
    line = line_of(layout, ref)
    requested = RoundRecord.load(layout, line).draw_set
    variant = find_variant(layout, line.run, line.variant)
    if requested is None and variant is not None and variant.round == line.round:
        return draw_set_of(layout, replace(line, variant=variant.parent))
    return requested or 0


def overrides_of(layout: Layout, ref: RoundRef) -> tuple[str, ...]:
    """Return every override that holds for a round of a variant, its parents' first."""
    variant = find_variant(layout, ref.run, ref.variant)
    if variant is None:
        return ()
    inherited = overrides_of(layout, replace(ref, variant=variant.parent))
    return (*inherited, *variant.overrides) if ref.round >= variant.round else inherited


def steps_of(layout: Layout, ref: RoundRef) -> dict[str, StepRecord]:
    """Return the steps recorded for a round, on whichever line they lie."""
    return RoundRecord.load(layout, line_of(layout, ref)).steps
