"""Which modules a process that is started here imports.

A child is told this process's `sys.path`, and knows nothing of what else decides here where C3's packages are found. A
folder named `stages` or `configs` in the current folder, or on PYTHONPATH, would be taken for C3's there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("configs", "pipeline", "stages", "store")


def child_search_path() -> list[str]:
    """Return the `sys.path` for a child: this one's, with C3's own place first where another package would be found."""
    found = [PathFinder.find_spec(name) for name in _PACKAGES]
    places = [Path(spec.origin).resolve().parents[1] if spec is not None and spec.origin else None for spec in found]
    return list(sys.path) if all(place == ROOT for place in places) else [str(ROOT), *sys.path]


@contextmanager
def own_packages_first() -> Iterator[None]:
    """Let the processes that multiprocessing starts meanwhile find C3's packages: it hands `sys.path` to each."""
    before = list(sys.path)
    sys.path[:] = child_search_path()
    try:
        yield
    finally:
        sys.path[:] = before
