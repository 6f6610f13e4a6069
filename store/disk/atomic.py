"""Files put in place whole or not at all, and the disk's refusals in words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.errors import StoreError

TEMPORARY = ".tmp-"
"""Before the name of what is still being written; its process's number follows."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into StoreErrors that say what to do."""
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
    """A text file, in place whole or not at all."""
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
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Force a file's or folder's bytes to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
