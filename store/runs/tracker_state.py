"""What trackers were told of a line of a run, so that nothing is told twice."""

from __future__ import annotations

import uuid

from store.disk.atomic import writing
from store.disk.layout import Layout
from store.disk.locks import short_lock
from store.disk.records import write_record
from store.runs.records import read_record


def line_id(layout: Layout, run: str, variant: str) -> str:
    """The id of a run's line for trackers: made at random when first asked for, kept with the run's records."""
    path = layout.tracked(run, variant)
    with short_lock(layout, f"records-{run}", f"run '{run}'"), writing(path.parent):
        record = read_record(path)
        if record is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {"id": uuid.uuid4().hex[:12], "told": {}}
            write_record(path, record)
    return str(record["id"])


def told(layout: Layout, run: str, variant: str, destination: str, chapter: str) -> str | None:
    """Digest of the content that this destination was last told of a chapter; None: of none."""
    record = read_record(layout.tracked(run, variant))
    found: dict[str, dict[str, str]] = (record or {}).get("told", {})
    return found.get(destination, {}).get(chapter)


def record_told(layout: Layout, run: str, variant: str, destination: str, chapter: str, digest: str) -> None:
    """Remember what was told. The line has an id by then."""
    path = layout.tracked(run, variant)
    with short_lock(layout, f"records-{run}", f"run '{run}'"), writing(path.parent):
        record = read_record(path)
        assert record is not None, "line_id was asked for first"
        record["told"].setdefault(destination, {})[chapter] = digest
        write_record(path, record)
