"""What has been logged to trackers."""

from __future__ import annotations

from pathlib import Path

from store.disk.layout import Layout
from store.runs.tracker_state import logged_digest, record_logged, tracked_run_id


def test_a_variant_keeps_its_id_and_has_one_of_its_own(store: Path) -> None:
    layout = Layout(store)
    first = tracked_run_id(layout, "a", "main")
    assert tracked_run_id(layout, "a", "main") == first and len(first) == 12
    assert tracked_run_id(layout, "a", "other") != first


def test_what_was_logged_is_known_by_destination_and_key(store: Path) -> None:
    layout = Layout(store)
    assert logged_digest(layout, "a", "main", "there", "round-00001") is None
    tracked_run_id(layout, "a", "main")
    record_logged(layout, "a", "main", "there", "round-00001", "first")
    record_logged(layout, "a", "main", "there", "round-00002", "second")
    record_logged(layout, "a", "main", "there", "round-00001", "again")
    assert logged_digest(layout, "a", "main", "there", "round-00001") == "again"
    assert logged_digest(layout, "a", "main", "there", "round-00002") == "second"
    assert logged_digest(layout, "a", "main", "elsewhere", "round-00001") is None
    assert logged_digest(layout, "a", "other", "there", "round-00001") is None
