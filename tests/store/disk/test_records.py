"""Records: in place whole or not at all, and no changed byte is believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import StoreError
from store.disk.records import read_record, record_text, write_record

RECORD = {"run": "test", "round": 3, "text": "é", "nothing": None}


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path / "a.json", RECORD)
    assert read_record(tmp_path / "a.json") == RECORD
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == record_text(RECORD)
    assert read_record(tmp_path / "b.json") is None
    assert read_record(tmp_path / "a.json" / "below a file.json") is None


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    content = record_text(RECORD).encode()
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StoreError, match=r"a\.json: corrupt"):
            read_record(file)


def test_what_killed_writers_have_left_goes_with_the_next_record(tmp_path: Path) -> None:
    (tmp_path / ".tmp-a.json-1").write_text("half")
    (tmp_path / ".tmp-b.json-1").write_text("of another file")
    write_record(tmp_path / "a.json", RECORD)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-b.json-1", "a.json"]
