"""Garbage: artifacts that no run, round or variant refers to, and what dead writers have left."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.errors import StoreError
from store.artifacts.artifact import MANIFEST, load_manifest
from store.disk.atomic import writing
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
from store.runs.records import references


@dataclass(frozen=True, slots=True)
class Garbage:
    """One folder that nothing refers to."""

    path: Path
    stage: str
    key: str
    bytes: int
    finished: bool
    """Whether it is a finished artifact, rather than the parts of one never finished."""


def garbage(layout: Layout) -> Iterator[Garbage]:
    """Yield every artifact folder that no record refers to, directly or as an input. Removes nothing."""
    kept = _referenced(layout)
    for path in sorted(layout.artifacts.glob("*/*")):
        name = (path.parent.name, path.name)
        if path.is_dir() and name not in kept:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            yield Garbage(path, *name, size, (path / MANIFEST).exists())


def sweep(layout: Layout, found: Garbage) -> bool:
    """Remove one. False when a live writer has locked it: then it is left alone."""
    try:
        with exclusive_lock(layout, f"{found.stage}-{found.key}", found.key), writing(found.path):
            (found.path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(found.path)
    except StoreError:
        return False
    return True


def _referenced(layout: Layout) -> set[tuple[str, str]]:
    """Return stage and key of what the records refer to, and of everything that it was made from."""
    waiting = [(reference.stage, reference.key) for reference in references(layout)]
    kept: set[tuple[str, str]] = set()
    while waiting:
        name = waiting.pop()
        if name in kept:
            continue
        kept.add(name)
        artifact = load_manifest(layout, *name)
        if artifact is not None:
            waiting += [(entry["stage"], entry["key"]) for entry in artifact.manifest["inputs"].values()]
    return kept
