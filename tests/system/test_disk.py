"""A full disk and a read-only one: one clear line, and a store that is whole and goes on from where it was."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.errors import StoreError
from configs.schema import Config
from configs.training import UpdateConfig
from pipeline.commands.verify import Finding, look_through, verify
from store.disk.layout import Layout
from store.runs.records import run_folders
from tests.conftest import Answer
from tests.support import worlds
from tests.support.kill import contents, temporary_files
from tests.support.rounds import drive

PAGE = 4096
SIZE = 16 << 20
Command = Callable[..., Answer]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own; `mount` needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place))
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True)


def _leave_free(disk: Path, pages: int) -> None:
    """Fill the disk but for so many pages."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    free = os.statvfs(disk).f_bavail
    descriptor = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    try:
        if free > pages:
            os.posix_fallocate(descriptor, 0, (free - pages) * PAGE)
    finally:
        os.close(descriptor)


BEFORE = {
    "problems": None,
    "rollout": "problems",
    "freeze": "rollout",
    "sample": "freeze",
    "replay": "sample",
    "grade": "replay",
    "advantages": "grade",
    "update": "advantages",
}
"""Stage -> the one before it."""


def _config() -> Config:
    return worlds.duo(update=UpdateConfig(minibatches=2, checkpoint_steps=1))


@pytest.fixture(scope="module")
def whole_contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The files of a round whose disk had room."""
    store = tmp_path_factory.mktemp("whole") / "store"
    drive(store, _config())
    return contents(store)


def _is_sound(store: Path) -> bool:
    return temporary_files(store) == [] and all(finding is None for _, finding in verify(Layout(store)))


@pytest.mark.parametrize("pages", [0, 1, 3])
@pytest.mark.parametrize("stage", BEFORE)
def test_a_stage_whose_disk_is_full_says_so_in_one_line_and_goes_on_when_there_is_room(
    disk: Path, whole_contents: dict[str, object], stage: str, pages: int
) -> None:
    store = disk / "store"
    if BEFORE[stage]:
        drive(store, _config(), until=BEFORE[stage])
    _leave_free(disk, pages)
    with pytest.raises(StoreError) as refusal:
        drive(store, _config())
    words = str(refusal.value)
    assert "No space left on device" in words and "\n" not in words
    assert "run the same command again" in words
    assert temporary_files(store) == []
    found = [found for run in run_folders(Layout(store)) for found in look_through(Layout(store), run)]
    assert [finding for finding in found if isinstance(finding, Finding)] == []
    (disk / "ballast").unlink()
    assert next(iter(drive(store, _config()).made), stage) == stage
    assert contents(store) == whole_contents


def test_a_read_only_store_is_refused_in_one_line_and_can_be_read(disk: Path, c3: Command) -> None:
    store = disk / "store"
    drive(store, _config(), until="grade", run="default")
    before = contents(store)
    assert _mount("-o", "remount,ro", str(disk)).returncode == 0
    with pytest.raises(StoreError, match="Read-only file system"):
        drive(store, _config(), run="default")
    refused = c3("run", "iteration", "--round", "1", "--store", str(store))
    assert (refused.code, refused.err.count("\n")) == (3, 1), refused.err
    assert refused.err.startswith("c3: ") and "Read-only file system" in refused.err
    for reading in (("verify",), ("status",), ("sql", "select count(*) from rewards"), ("gc",), ("plan",)):
        answer = c3(*reading, "--store", str(store))
        assert answer.code == 0, (reading, answer.err)
    assert contents(store) == before
    assert _mount("-o", "remount,rw", str(disk)).returncode == 0
    assert drive(store, _config(), run="default").made == ["advantages", "update"]


def test_a_finished_round_of_a_read_only_store_is_shown(disk: Path, c3: Command) -> None:
    drive(disk / "store", _config(), run="default")
    assert _mount("-o", "remount,ro", str(disk)).returncode == 0
    answer = c3("run", "iteration", "--round", "1", "--store", str(disk / "store"))
    assert answer.code == 0, answer.err
    assert "reused" in answer.out


@pytest.mark.slow
@pytest.mark.parametrize("pages", [0, 2, 5])
@pytest.mark.parametrize("stage", ["rollout", "update"])
def test_a_command_whose_disk_fills_up_ends_with_one_line_and_goes_on_when_there_is_room(
    disk: Path, c3: Command, prefect_server: str, stage: str, pages: int
) -> None:
    _fills_up_and_goes_on(disk, c3, prefect_server, stage, pages)


@pytest.mark.slow
def test_a_command_whose_disk_fills_up_says_so_through_prefect(disk: Path, c3: Command, prefect_server: str) -> None:
    _fills_up_and_goes_on(disk, c3, prefect_server, "grade", pages=3)


def _fills_up_and_goes_on(disk: Path, c3: Command, server: str, stage: str, pages: int) -> None:
    store = disk / "store"
    drive(
        store,
        _config(),
        until={"rollout": "problems", "sample": "freeze", "grade": "replay", "update": "advantages"}[stage],
    )
    command = ("run", "iteration", "--run", "test", "--round", "1", "--store", str(store))
    _leave_free(disk, pages)
    answer = c3(*command, env={"PREFECT_API_URL": server})
    assert (answer.code, answer.err.count("\n")) == (3, 1), answer.err
    assert answer.err.startswith("c3: ") and "No space left on device" in answer.err
    assert _is_sound(store)
    (disk / "ballast").unlink()
    answer = c3(*command, env={"PREFECT_API_URL": server})
    assert answer.code == 0, answer.err
    assert _is_sound(store)
