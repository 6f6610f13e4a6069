"""Locks: one writer at a time, released by the operating system when the process dies."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from configs.errors import StoreError
from store.disk.atomic import writing
from store.disk.layout import Layout

_SHORT_LOCK_SECONDS = 30.0


@contextmanager
def exclusive_lock(layout: Layout, name: str, what: str) -> Iterator[None]:
    """Hold the lock `name` while the block runs. StoreError saying who has locked `what` since when, if another has."""
    path = layout.lock(name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StoreError(
                f"{what} is being made by {_read_owner(path)}; wait for it and run the same command again, "
                f"its result will be reused"
            ) from None
    try:
        _write_owner(path)
        yield
    finally:
        lock.release()


@contextmanager
def short_lock(layout: Layout, name: str, what: str) -> Iterator[None]:
    """Wait for the lock `name`, which is only ever held for milliseconds: to read a record, change it, write it back.

    StoreError naming `what` when another process has kept it for half a minute.
    """
    path = layout.lock(name)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=_SHORT_LOCK_SECONDS)
        except Timeout:
            raise StoreError(
                f"{what}: another process has been writing it for {_SHORT_LOCK_SECONDS:.0f} s; try again"
            ) from None
    try:
        yield
    finally:
        lock.release()


def lock_owner(layout: Layout, name: str) -> str | None:
    """Return who has held the lock `name` since when, as one line; None when nobody holds it."""
    path = layout.lock(name)
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return None
    except Timeout:
        return _read_owner(path)
    except OSError:
        return None


def _owner_file(path: Path) -> Path:
    # next to the lock, because writing into a locked file is refused on some systems
    return path.with_suffix(".json")


def _write_owner(path: Path) -> None:
    record = {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["c3", *sys.argv[1:]]),
    }
    with writing(path):
        _owner_file(path).write_text(json.dumps(record), encoding="utf-8")


def _read_owner(path: Path) -> str:
    try:
        record = json.loads(_owner_file(path).read_text(encoding="utf-8"))
        return f"process {record['process']} on {record['machine']} since {record['since']} ({record['command']})"
    except (OSError, ValueError, KeyError):
        return "another process"
