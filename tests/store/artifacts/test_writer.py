"""The writer: a part is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from store.artifacts.artifact import StageOutput
from store.artifacts.writer import ArtifactWriter, open_writer
from store.disk.layout import Layout
from tests.support.rounds import PlayedRound, config_of, drive

Played = Callable[[str, str], PlayedRound]


def test_a_part_interrupted_while_it_is_written_leaves_nothing(store: Path) -> None:
    def stop(folder: Path) -> None:
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    with open_writer(Layout(store), "stage", "key") as writer, pytest.raises(KeyboardInterrupt):
        writer.write(0, StageOutput({"problems": []}, stop), 0.0)
    assert list((store / "artifacts/stage/key").iterdir()) == []


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


def test_a_part_whose_record_is_corrupt_is_made_again(played: Played, store: Path) -> None:
    whole = played("duo", "tree")
    copytree(whole.store, store)
    folder = store / "artifacts/grade" / whole.artifacts["grade"].key
    (folder / "manifest.json").unlink()
    (folder / "part-00000/part.json").write_text("{")
    assert ArtifactWriter(Layout(store), "grade", folder.name).part(1) is not None
    assert drive(store, config_of("duo", "tree")).reports["grade"].parts_made == 1
