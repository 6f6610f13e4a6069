"""`c3 gc`: list artifacts that no record refers to, or delete them."""

from __future__ import annotations

from dataclasses import dataclass

from store.disk.layout import Layout
from store.runs.garbage import garbage, sweep


@dataclass(frozen=True)
class Unreferenced:
    """Hold one artifact that no record refers to, and what became of it."""

    stage: str
    key: str
    bytes: int
    finished: bool
    """Whether it is a finished artifact, rather than the parts of one never finished."""
    removed: bool | None
    """None: only listed. False: kept, because a live writer holds it."""


def collect_garbage(layout: Layout, delete: bool) -> list[Unreferenced]:
    """Return the artifacts that no record refers to; `delete`: remove them too, but for those that are being written."""
    return [
        Unreferenced(entry.stage, entry.key, entry.bytes, entry.finished, sweep(layout, entry) if delete else None)
        for entry in list(garbage(layout))
    ]
