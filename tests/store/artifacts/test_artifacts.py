"""The store: content digests, whole parts or none, corruption that is noticed, locks that die with their holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import StoreError
from store.artifacts import artifact as artifacts
from store.artifacts.artifact import StageOutput, write_table
from store.artifacts.content_digest import TableDigest
from store.artifacts.integrity import find
from store.artifacts.schemas import TABLES
from store.artifacts.writer import ArtifactWriter, open_writer
from store.disk import cache as remembered
from store.disk.hashing import digest
from store.disk.ids import short_id
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
from tests.conftest import ROOT
from tests.support.rounds import PlayedRound, config_of, drive

Played = Callable[[str, str], PlayedRound]
SCHEMA = pa.schema(
    [
        ("number", pa.float64()),
        ("count", pa.int32()),
        ("text", pa.string()),
        ("flag", pa.bool_()),
        ("list", pa.list_(pa.int32())),
        ("said", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
    ]
)
ROW = {"number": 1.0, "count": 1, "text": "a", "flag": True, "list": [1], "said": [{"role": "r", "text": "t"}]}
EMPTY = {"number": 0.0, "count": 0, "text": "", "flag": False, "list": [], "said": []}
NOTHING = dict.fromkeys(ROW)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.none() | st.floats(allow_nan=False, width=32),
            "count": st.none() | st.integers(-9, 9),
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
            "flag": st.none() | st.booleans(),
            "list": st.none() | st.lists(st.none() | st.integers(0, 3), max_size=3),
            "said": st.none()
            | st.lists(
                st.none()
                | st.fixed_dictionaries(
                    {"role": st.none() | st.just("r"), "text": st.none() | st.text("ab", max_size=2)}
                ),
                max_size=2,
            ),
        }
    ),
    max_size=9,
)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


def _digest(*parts: pa.Table) -> str:
    running = TableDigest(SCHEMA)
    for part in parts:
        running.update(part)
    return running.hexdigest()


def _canonical(rows: list[dict[str, Any]]) -> str:
    """Equal exactly for equal rows: a NaN is itself, and -0.0 is 0.0."""
    numbers = [{**row, "number": None if row["number"] is None else row["number"] + 0.0} for row in rows]
    return repr([sorted(row.items()) for row in numbers])


@given(ROWS, st.integers(0, 9))
def test_a_digest_does_not_see_how_rows_are_chunked(rows: list[dict[str, Any]], at: int) -> None:
    whole = _table(rows)
    chunked = pa.concat_tables([whole.slice(0, at), whole.slice(at)])
    assert _digest(chunked) == _digest(whole)


@given(ROWS, st.integers(0, 9))
def test_a_digest_does_not_see_how_rows_are_cut_into_parts(rows: list[dict[str, Any]], at: int) -> None:
    whole = _table(rows)
    assert _digest(_table(rows[:at]), _table(rows[at:])) == _digest(whole)


@given(ROWS, ROWS)
def test_two_tables_share_a_digest_exactly_when_their_rows_are_equal(
    some: list[dict[str, Any]], others: list[dict[str, Any]]
) -> None:
    assert (_digest(_table(some)) == _digest(_table(others))) == (_canonical(some) == _canonical(others))


@pytest.mark.parametrize("column", ROW)
def test_null_empty_and_something_are_three_things(column: str) -> None:
    digests = {_digest(_table([{**ROW, column: cell[column]}])) for cell in (ROW, EMPTY, NOTHING)}
    assert len(digests) == 3


def test_a_cell_does_not_run_over_into_the_next() -> None:
    def said(*texts: str | None) -> str:
        return _digest(_table([{**ROW, "text": text} for text in texts]))

    assert len({said("ab", "c"), said("a", "bc"), said("abc", ""), said("abc", None), said("c", "ab")}) == 5
    lists = [[[1], [2]], [[1, 2], []], [[], [1, 2]], [[1, 2], None], [[1], [2], []]]
    assert len({_digest(_table([{**ROW, "list": item} for item in rows])) for rows in lists}) == 5


def test_minus_zero_is_zero_and_every_nan_is_one() -> None:
    assert _digest(_table([{**ROW, "number": -0.0}])) == _digest(_table([{**ROW, "number": 0.0}]))
    assert _digest(_table([{**ROW, "number": float("nan")}])) == _digest(_table([{**ROW, "number": -float("nan")}]))


def test_a_digest_does_not_see_compression(tmp_path: Path) -> None:
    table = _table([ROW, EMPTY, NOTHING] * 50)
    for kind in ("zstd", "none"):
        pq.write_table(table, tmp_path / kind, compression=kind, row_group_size=7, store_schema=False)
    read = [pq.read_table(tmp_path / kind).cast(SCHEMA) for kind in ("zstd", "none")]
    assert {_digest(table) for table in read} == {_digest(table)}


def test_equal_rows_are_written_as_equal_bytes(tmp_path: Path) -> None:
    rows = [ROW, EMPTY, NOTHING] * 50
    write_table(tmp_path / "a", _table(rows))
    write_table(tmp_path / "b", pa.concat_tables([_table(rows[:7]), _table(rows[7:])]).combine_chunks())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_digest_is_the_same_in_every_process() -> None:
    # sha256 of {"a":[1,null,"é"],"b":0.5}, keys sorted, no spaces, UTF-8
    assert digest({"b": 0.5, "a": [1, None, "é"]}) == "141c3b694daf9eb6805ece72ad134234c45b5edf27b5594039b6085212fcb467"


def test_a_short_id_tells_its_parts_apart() -> None:
    ids = {short_id("ab", "c"), short_id("a", "bc"), short_id("abc"), short_id(["ab", "c"]), short_id("ab", "c", None)}
    assert len(ids) == 5
    assert all(len(item) == 12 and item == item.lower() for item in ids)


def test_a_part_interrupted_while_it_is_written_leaves_nothing(store: Path) -> None:
    def stop(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    with open_writer(Layout(store), "stage", "key") as writer, pytest.raises(KeyboardInterrupt):
        writer.write(0, StageOutput({"problems": []}, stop), 0.0)
    assert list((store / "artifacts/stage/key").iterdir()) == []


def test_what_was_just_written_is_not_read_again_until_it_changes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = artifacts._opened
    monkeypatch.setattr(artifacts, "_opened", lambda path: (opened.append(path), real(path))[1])
    rows = [dict.fromkeys(TABLES["steps"].names) | {"step": step} for step in range(3)]
    with open_writer(Layout(store), "stage", "key") as writer:
        made = writer.finish([writer.write(0, StageOutput({"steps": rows}), 0.0)], {})
    assert made.rows("steps") == rows and made.rows("steps", ["step"]) == [{"step": step} for step in range(3)]
    assert not opened
    [file] = made.files("steps")
    write_table(file, pa.Table.from_pylist(rows[:1], TABLES["steps"]))
    assert made.rows("steps") == rows[:1] and opened == [file]


def test_no_more_tables_are_remembered_than_memory_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _table([ROW] * 1000)
    files = [tmp_path / str(number) for number in range(5)]
    for name, value in (("_tables", {}), ("_sizes", {}), ("KEPT", 2 * table.nbytes)):
        monkeypatch.setattr(remembered, name, value)
    for file in files[:4]:
        file.touch()
        remembered.cache_table(file, table)
    files[4].touch()
    remembered.cache_table(files[4], _table([ROW] * 3000))  # more than there is room for: it takes no other's place
    remembered.cache_table(tmp_path / "not there", table)
    assert [remembered.cached_table(file) is not None for file in files] == [False, False, True, True, False]


def test_what_a_killed_writer_left_is_cleared_away(store: Path) -> None:
    left = store / "artifacts/stage/key/.tmp-part-00000-1"
    left.mkdir(parents=True)
    (left / "problems.parquet").write_text("half")
    with open_writer(Layout(store), "stage", "key") as writer:
        assert writer.part(0) is None
        assert list(writer.path.iterdir()) == []


def test_a_part_is_on_disk_before_it_is_in_place(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    rename = Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
    )
    monkeypatch.setattr(
        Path, "rename", lambda self, target: (seen.append(f"-> {target.name}"), rename(self, target))[1]
    )
    with open_writer(Layout(store), "stage", "key") as writer:
        writer.write(0, StageOutput({"problems": []}), 0.0)
    before, after = seen[: seen.index("-> part-00000")], seen[seen.index("-> part-00000") + 1 :]
    assert {"problems.parquet", "part.json"} <= set(before)
    assert any(name.startswith(".tmp-part-00000") for name in before)
    assert after == ["key"]  # the folder that holds the new name


def test_without_a_manifest_an_artifact_is_not_there(played: Played, store: Path) -> None:
    artifact = played("duo", "tree").artifacts["rollout"]
    copytree(artifact.path, store / "artifacts/rollout" / artifact.key)
    assert find(Layout(store), "rollout", artifact.key) is not None
    (store / "artifacts/rollout" / artifact.key / "manifest.json").unlink()
    assert find(Layout(store), "rollout", artifact.key) is None


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [_flip, _truncate, Path.unlink, lambda path: rmtree(path.parent)])
def test_corruption_is_noticed_and_only_the_corrupt_part_is_made_again(
    played: Played, store: Path, harm: Callable[[Path], None]
) -> None:
    whole = played("duo", "tree")
    copytree(whole.store, store)
    artifact = find(Layout(store), "rollout", whole.artifacts["rollout"].key)
    assert artifact is not None and len(artifact.parts()) == 2
    kept = artifact.parts()[0] / "decisions.parquet"
    written = kept.stat().st_mtime_ns
    harm(artifact.parts()[1] / "decisions.parquet")
    assert find(Layout(store), "rollout", artifact.key) is None
    again = drive(store, config_of("duo", "tree"))
    assert again.made == ["rollout"]
    assert (again.reports["rollout"].parts_made, again.reports["rollout"].parts_reused) == (1, 1)
    assert kept.stat().st_mtime_ns == written
    assert again.artifacts["rollout"].digest == artifact.digest


def test_a_part_whose_record_is_corrupt_is_made_again(played: Played, store: Path) -> None:
    whole = played("duo", "tree")
    copytree(whole.store, store)
    folder = store / "artifacts/grade" / whole.artifacts["grade"].key
    (folder / "manifest.json").unlink()
    (folder / "part-00000/part.json").write_text("{")
    assert ArtifactWriter(Layout(store), "grade", folder.name).part(1) is not None
    assert drive(store, config_of("duo", "tree")).reports["grade"].parts_made == 1


HOLDER = """
import sys, time
from pathlib import Path
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
with exclusive_lock(Layout(Path(sys.argv[1])), "a", "rollout 12"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_who_holds_a_lock_until_that_one_dies(store: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(store)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        record = json.loads((store / "locks/a.json").read_text())
        with pytest.raises(StoreError) as refusal, exclusive_lock(Layout(store), "a", "rollout 12"):
            pass
        words = str(refusal.value)
        assert words.startswith(f"rollout 12 is being made by process {holder.pid} on ")
        assert f"since {record['since']}" in words
        assert "wait for it and run the same command again" in words
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with exclusive_lock(Layout(store), "a", "rollout 12"):
        pass


def test_a_lock_is_let_go_of_when_its_block_fails(store: Path) -> None:
    with pytest.raises(ValueError, match="no"), exclusive_lock(Layout(store), "a", "it"):
        raise ValueError("no")
    with exclusive_lock(Layout(store), "a", "it"):
        pass
