"""How long the optimiser steps of an update took.

Seconds are in no table: equal rows must be equal bytes, so they lie in the parts' records.
"""

from __future__ import annotations

from store.artifacts.artifact import Artifact, Row


def step_timing(artifact: Artifact) -> list[Row]:
    """Return the seconds of each optimiser step (schema: STEP_TIMING); empty for what is no update or was not timed."""
    return [
        {"filename": str(artifact.path / part["name"] / "steps.parquet"), **entry}
        for part in artifact.manifest["parts"]
        for entry in part.get("step_timing", ())
    ]


def timed_steps(update: Artifact) -> list[Row]:
    """Return the rows of `steps` with `seconds` and `tokens_per_second`, as in `c3 sql`; None where not timed."""
    seconds = {row["step"]: row["seconds"] for row in step_timing(update)}
    rows = []
    for row in update.rows("steps"):
        took = seconds.get(row["step"])
        rows.append({**row, "seconds": took, "tokens_per_second": row["tokens"] / took if took else None})
    return rows
