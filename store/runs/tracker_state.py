"""What has been logged to trackers of a variant of a run, so that nothing is logged twice."""

from __future__ import annotations

import uuid

from store.disk.layout import Layout
from store.runs.records import load_record, run_lock, write_run_file


def tracked_run_id(layout: Layout, run: str, variant: str) -> str:
    """Return the id that trackers know this variant by: made at random on the first request, kept with its records."""
    path = layout.tracked(run, variant)
    with run_lock(layout, run):
        record = load_record(path)
        if record is None:
            record = {"id": uuid.uuid4().hex[:12], "logged": {}}
            write_run_file(path, record)
    return str(record["id"])


def logged_digest(layout: Layout, run: str, variant: str, destination: str, log_key: str) -> str | None:
    """Return the digest of the content last logged to a destination under a key; None: nothing was."""
    record = load_record(layout.tracked(run, variant))
    logged: dict[str, dict[str, str]] = (record or {}).get("logged", {})
    return logged.get(destination, {}).get(log_key)


def record_logged(layout: Layout, run: str, variant: str, destination: str, log_key: str, digest: str) -> None:
    """Record what was logged. `tracked_run_id` has been called by then."""
    path = layout.tracked(run, variant)
    with run_lock(layout, run):
        record = load_record(path)
        assert record is not None, "tracked_run_id is called first"
        record["logged"].setdefault(destination, {})[log_key] = digest
        write_run_file(path, record)
