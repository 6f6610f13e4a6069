"""Compute what a command prints at the end of a round. DuckDB is imported where figures are not recorded yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from store.artifacts.artifact import Artifact, Row
from store.disk.hashing import digest
from store.queries.connection import SQL, add_table, shared_tables

if TYPE_CHECKING:
    import duckdb

_FIGURES = SQL / "round_summary.sql"
_SIGNAL = SQL / "signal_summary.sql"


def summary_content(artifacts: list[Artifact]) -> str:
    """Return the digest of what a summary is made from: the rows and the queries. Equal content, equal summary."""
    rows = sorted([artifact.stage, artifact.digest] for artifact in artifacts)
    return digest([rows, _FIGURES.read_text(), _SIGNAL.read_text()])


def round_summary(artifacts: list[Artifact]) -> tuple[Row, list[Row]]:
    """Return a round's figures over its rewards (round_summary.sql), and per role how many groups carry no signal
    (signal_summary.sql).
    """
    with shared_tables(artifacts, ("transcripts", "replays", "rewards", "advantages")) as connection:
        return _rows(connection, _FIGURES)[0], _rows(connection, _SIGNAL)


def accuracy_change(before: Artifact, after: Artifact) -> Row:
    """Return how greedy accuracy changed, paired by problem, with half the width of its 95% interval
    (accuracy_change.sql).
    """
    with shared_tables((), ()) as connection:
        for name, artifact in (("before", before), ("after", after)):
            add_table(connection, name, "evaluations", [artifact])
        return _rows(connection, SQL / "accuracy_change.sql")[0]


def _rows(connection: duckdb.DuckDBPyConnection, file: Path) -> list[Row]:
    found = connection.execute(file.read_text())
    columns = [column[0] for column in found.description or ()]
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]
