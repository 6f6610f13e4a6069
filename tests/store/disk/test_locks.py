"""Locks: the owner is named, and the lock dies with its process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.errors import StoreError
from store.disk import locks
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock, lock_owner, short_lock
from tests.conftest import ROOT

OWNER = """
import sys, time
from pathlib import Path
from store.disk.layout import Layout
from store.disk.locks import exclusive_lock
with exclusive_lock(Layout(Path(sys.argv[1])), "a", "rollout 12"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_told_who_owns_a_lock_until_that_one_dies(store: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(store)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "held\n"
        record = json.loads((store / "locks/a.json").read_text())
        with pytest.raises(StoreError) as refusal, exclusive_lock(Layout(store), "a", "rollout 12"):
            pass
        words = str(refusal.value)
        assert (lock_owner(Layout(store), "a") or "").startswith(f"process {owner.pid} on ")
        assert words.startswith(f"rollout 12 is being made by process {owner.pid} on ")
        assert f"since {record['since']}" in words
        assert "wait for it and run the same command again" in words
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    with exclusive_lock(Layout(store), "a", "rollout 12"):
        pass


def test_a_lock_is_let_go_of_when_its_block_fails(store: Path) -> None:
    with pytest.raises(ValueError, match="no"), exclusive_lock(Layout(store), "a", "it"):
        raise ValueError("no")
    with exclusive_lock(Layout(store), "a", "it"):
        pass
    assert lock_owner(Layout(store), "a") is None and lock_owner(Layout(store), "never") is None


def test_a_short_lock_is_waited_for_only_so_long(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_SHORT_LOCK_SECONDS", 0.05)
    with (
        short_lock(Layout(store), "records-a", "run 'a'"),
        pytest.raises(StoreError, match="run 'a': another process has been writing it"),
        short_lock(Layout(store), "records-a", "run 'a'"),
    ):
        pass
    with short_lock(Layout(store), "records-a", "run 'a'"):
        pass
