"""Put files in place whole or not at all, and put the disk's refusals into words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import StoreError

TEMPORARY = ".tmp-"
"""Begins the name of what is still being written; its process's number ends it."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the OSErrors of a block that writes to `path` into StoreErrors that say what to do."""
    try:
        yield
    except PermissionError as error:
        raise StoreError(
            f"{error.filename or path}: no permission to write; choose another store with --store"
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"{error.filename or path}: {reason}; nothing that was finished is lost. Make room or choose another store "
            f"with --store, then run the same command again"
        ) from error


def replace_file(path: Path, text: str) -> None:
    """Write a text file, which is in place whole or not at all. OSError when the disk refuses."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Force a folder's files, those below it among them, to disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
