"""What this process knows of files it has written or read, so that it need not read them again.

A file is known by its inode, its size and its times of change: whatever has changed since is not in the cache.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import LRUCache

from store.disk.hashing import file_digest

if TYPE_CHECKING:  # a finished round is recognised without pyarrow
    import pyarrow as pa

FileIdentity = tuple[int, ...]

MAX_TABLE_BYTES = 2**26
"""Bytes of tables that are kept in memory; beyond them those longest unused go."""


def cached_digest(path: Path, status: os.stat_result) -> str:
    """Return the sha256 of a file as it is now, read once per process: a command looks at a round more than once."""
    file = _identity(status)
    if file not in _digests:
        _digests[file] = file_digest(path)
    return _digests[file]


def cache_digest(status: os.stat_result, sha256: str) -> None:
    """Keep the digest of a file that was read under a temporary name."""
    _digests[_identity(status)] = sha256


def cache_table(path: Path, table: pa.Table) -> None:
    """Keep rows just written to a file: the next stages read them, and small files take longer to open than to use."""
    try:
        file = _identity(path.stat())
        with _tables_lock:
            _tables[file] = table
    except OSError:
        pass  # the file is gone; who reads it says so
    except ValueError:
        pass  # larger than the whole cache


def cached_table(path: Path) -> pa.Table | None:
    """Return the rows of a file that this process wrote, or None where it has changed since or is no longer kept."""
    try:
        file = _identity(path.stat())
    except OSError:
        return None  # who reads it says so
    with _tables_lock:  # to look up is to reorder
        return _tables.get(file)


def _identity(status: os.stat_result) -> FileIdentity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def table_cache(max_bytes: int) -> LRUCache[FileIdentity, pa.Table]:
    """Return an empty cache of tables that holds so many bytes of them."""
    return LRUCache(max_bytes, getsizeof=lambda table: table.nbytes)


_digests: dict[FileIdentity, str] = {}
_tables = table_cache(MAX_TABLE_BYTES)
_tables_lock = Lock()
