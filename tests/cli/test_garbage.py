"""What nothing refers to is shown first and removed only when asked."""

from __future__ import annotations

import shutil

from store.artifacts.writer import open_writer
from store.runs.garbage import garbage, sweep
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of
from tests.support.stores import NO_LOO, stored_files, variant_of


def test_garbage_is_shown_first_and_only_what_nothing_refers_to_is_removed(duo: PlayedRound) -> None:
    store, layout = duo.store, duo.layout
    branch = drive_on(variant_of(duo, "no-loo", NO_LOO))
    drive(store, config_of("duo", "tree", seed=7), run="gone")
    shutil.rmtree(store / "runs/gone")
    before = stored_files(store, "artifacts")
    found = {(entry.stage, entry.key) for entry in garbage(layout)}
    assert stored_files(store, "artifacts") == before  # looking removes nothing
    used = {(artifact.stage, artifact.key) for round in (duo, branch) for artifact in round.artifacts.values()}
    everything = {(path.parent.name, path.name) for path in layout.artifacts.glob("*/*")}
    assert found == everything - used
    assert {stage for stage, _ in found} == {"rollout", "freeze", "sample", "replay", "grade", "advantages", "update"}
    assert all(sweep(layout, entry) for entry in list(garbage(layout)))
    assert {(path.parent.name, path.name) for path in layout.artifacts.glob("*/*")} == used
    assert drive_on(resolver_of(store, "test", 1)).made == drive_on(resolver_of(store, "test", 1, "no-loo")).made == []


def test_garbage_that_a_live_writer_holds_is_left(duo: PlayedRound) -> None:
    with open_writer(duo.layout, "rollout", "in-the-making") as writer:
        (writer.path / "part-00000").mkdir()
        [entry] = garbage(duo.layout)
        assert not entry.finished
        assert not sweep(duo.layout, entry)
        assert (writer.path / "part-00000").exists()
    assert sweep(duo.layout, entry)
    assert not writer.path.exists()
