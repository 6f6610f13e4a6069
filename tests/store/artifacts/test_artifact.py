"""Artifacts: tables as they are written and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import StoreError
from store.artifacts import artifact as artifacts
from store.artifacts.artifact import StageOutput, load_manifest, read_part, read_row_groups, remove, write_table
from store.artifacts.integrity import load_verified
from store.artifacts.schemas import TABLES
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from tests.support.rounds import PlayedRound

Played = Callable[[str, str], PlayedRound]


def test_equal_rows_are_written_as_equal_bytes(tmp_path: Path) -> None:
    table = pa.table({"number": [1.0, 0.0, None] * 50, "list": [[1], [], None] * 50})
    write_table(tmp_path / "a", table)
    write_table(tmp_path / "b", pa.concat_tables([table.slice(0, 7), table.slice(7)]).combine_chunks())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


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


def test_without_a_manifest_an_artifact_is_not_there(played: Played, store: Path) -> None:
    artifact = played("duo", "tree").artifacts["rollout"]
    copytree(artifact.path, store / "artifacts/rollout" / artifact.key)
    assert load_verified(Layout(store), "rollout", artifact.key) is not None
    (store / "artifacts/rollout" / artifact.key / "manifest.json").unlink()
    assert load_verified(Layout(store), "rollout", artifact.key) is None


def test_a_table_is_read_whole_or_row_group_by_row_group_to_the_same_rows(tmp_path: Path) -> None:
    schema = TABLES["problems"]
    rows = [{"problem_id": str(n), "suite": "s", "question": "q", "answer": "a"} for n in range(5)]
    for size, groups in ((2, 3), (5, 1)):
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "problems.parquet", row_group_size=size)
        read = list(read_row_groups(tmp_path / "problems.parquet"))
        assert len(read) == groups
        assert pa.concat_tables(read).to_pylist() == rows == read_part(tmp_path, "problems")
    pq.write_table(schema.empty_table(), tmp_path / "problems.parquet")
    assert [table.num_rows for table in read_row_groups(tmp_path / "problems.parquet")] == [0]


def test_a_file_with_other_columns_is_refused_and_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem_id": ["1"]}), tmp_path / "problems.parquet")
    with pytest.raises(StoreError, match=r"problems\.parquet: its columns are not those that this version of C3 reads"):
        read_part(tmp_path, "problems")


def test_a_removed_artifact_is_gone_with_all_its_files(store: Path) -> None:
    with open_writer(Layout(store), "stage", "key") as writer:
        made = writer.finish([writer.write(0, StageOutput({"problems": []}), 0.0)], {})
    assert load_manifest(Layout(store), "stage", "key") == made
    remove(made)
    assert not made.path.exists() and load_manifest(Layout(store), "stage", "key") is None
