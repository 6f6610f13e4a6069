"""Files put in place whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from configs.errors import StoreError
from store.disk.atomic import replace_file, writing


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file(tmp_path / "a", "before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_disks_refusals_say_what_to_do(tmp_path: Path) -> None:
    refused = r"/there: no permission to write; choose another store with --store"
    with pytest.raises(StoreError, match=refused), writing(Path("/there")):
        raise PermissionError(errno.EACCES, "Permission denied")
    full = r"/file: No space left on device; nothing that was finished is lost"
    with pytest.raises(StoreError, match=full), writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/file")
