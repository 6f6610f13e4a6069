"""The hash of plain data."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.disk.hashing import bytes_digest, digest, file_digest


def test_a_digest_is_the_same_in_every_process() -> None:
    # sha256 of {"a":[1,null,"é"],"b":0.5}, keys sorted, no spaces, UTF-8
    assert digest({"b": 0.5, "a": [1, None, "é"]}) == "141c3b694daf9eb6805ece72ad134234c45b5edf27b5594039b6085212fcb467"


def test_what_is_no_number_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_bytes_have_one_digest_however_they_are_cut(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # sha256 of "abc", as in FIPS 180-2
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert bytes_digest([b"a", b"", b"bc"]) == bytes_digest([b"abc"]) == file_digest(tmp_path / "file") == known
