"""What this process knows of files it has written or read, so that it need not read them again.

A file goes by its number on the disk, its size, and the times that every change to it moves: whatever has changed is not known.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from store.disk.hashing import file_digest

if TYPE_CHECKING:  # a finished round is recognised without pyarrow
    import pyarrow as pa

File = tuple[int, ...]
KEPT = 2**26
"""Bytes of tables that are kept in memory."""


def cached_digest(path: Path, status: os.stat_result) -> str:
    """sha256 of a file as it is now; read once per process, because a command looks at a round more than once."""
    file = _file(status)
    if file not in _digests:
        _digests[file] = file_digest(path)
    return _digests[file]


def cache_digest(status: os.stat_result, sha256: str) -> None:
    """Know a file by what was read of it under a temporary name."""
    _digests[_file(status)] = sha256


def cache_table(path: Path, table: pa.Table) -> None:
    """Keep what was just written: the stages after it read it, and a small file takes longer to open than to use."""
    size = table.nbytes  # once: for nested columns it takes longer than to read them
    if size > KEPT:
        return
    try:
        file = _file(path.stat())
    except OSError:
        return  # it only saves reading it
    with _remembering:
        _tables[file] = table
        _sizes[file] = size
        while sum(_sizes.values()) > KEPT:
            oldest = next(iter(_sizes))
            del _tables[oldest], _sizes[oldest]


def cached_table(path: Path) -> pa.Table | None:
    """The rows of a file that this process wrote and that has not changed since, while they are kept."""
    try:
        return _tables.get(_file(path.stat()))
    except OSError:
        return None  # who reads it says so


def _file(status: os.stat_result) -> File:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


_digests: dict[File, str] = {}
_tables: dict[File, pa.Table] = {}
_sizes: dict[File, int] = {}
"""Bytes of each table, in the order in which they were written."""
_remembering = Lock()
