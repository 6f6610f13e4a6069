"""What a process keeps of the files it has written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from store.disk import cache
from store.disk.hashing import file_digest


def test_no_more_tables_are_cached_than_memory_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"number": range(1000)})
    files = [tmp_path / str(number) for number in range(5)]
    monkeypatch.setattr(cache, "_tables", cache.table_cache(2 * table.nbytes))
    for file in files[:4]:
        file.touch()
        cache.cache_table(file, table)
        cache.cached_table(files[0])  # used again and again, so it stays
    files[4].touch()
    cache.cache_table(
        files[4], pa.table({"number": range(3000)})
    )  # larger than the whole cache: nothing has to go for it
    cache.cache_table(tmp_path / "not there", table)
    assert [cache.cached_table(file) is not None for file in files] == [True, False, False, True, False]


def test_a_table_is_forgotten_once_its_file_has_changed(tmp_path: Path) -> None:
    table, file = pa.table({"number": [1]}), tmp_path / "table"
    file.write_text("one")
    cache.cache_table(file, table)
    assert cache.cached_table(file) is table
    file.write_text("two!")
    assert cache.cached_table(file) is None


def test_a_digest_is_read_once_and_again_once_its_file_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(cache, "file_digest", lambda path: (read.append(path), file_digest(path))[1])
    file = tmp_path / "file"
    file.write_text("one")
    assert cache.cached_digest(file, file.stat()) == cache.cached_digest(file, file.stat()) == file_digest(file)
    assert read == [file]
    file.write_text("two!")
    assert cache.cached_digest(file, file.stat()) == file_digest(file)
    assert read == [file, file]
    written = tmp_path / "temporary"
    written.write_text("three")
    cache.cache_digest(written.stat(), "known")
    assert cache.cached_digest(written, written.stat()) == "known" and len(read) == 2


def test_threads_may_use_the_cache_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"number": range(100)})
    monkeypatch.setattr(cache, "_tables", cache.table_cache(3 * table.nbytes))
    files = [tmp_path / str(number) for number in range(8)]
    for file in files:
        file.touch()

    def use(number: int) -> None:
        for turn in range(200):
            cache.cache_table(files[(number + turn) % 8], table)
            cache.cached_table(files[turn % 8])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(4)))
    assert sum(cache.cached_table(file) is not None for file in files) == 3
