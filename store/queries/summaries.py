"""Compute what a command prints at the end of a round. DuckDB is imported where figures are not recorded yet."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

from configs.intervals import CONFIDENCE
from store.artifacts.artifact import Artifact, Row
from store.disk.hashing import digest
from store.queries.connection import SQL, add_table, shared_tables

if TYPE_CHECKING:
    import duckdb

_DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Half the width of a normal distribution's interval, in standard deviations."""
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
    """Return how greedy accuracy changed, paired by problem, with half the width of its interval (accuracy_change.sql)."""
    with shared_tables((), ()) as connection:
        for name, artifact in (("before", before), ("after", after)):
            add_table(connection, name, "evaluations", [artifact])
        connection.execute("SET VARIABLE deviations = ?", [_DEVIATIONS])
        return _rows(connection, SQL / "accuracy_change.sql")[0]


def accuracy_half_interval(accuracy: float, count: int) -> float:
    """Return half the width of the interval of an accuracy over `count` scored answers."""
    return float(_DEVIATIONS * (accuracy * (1 - accuracy) / max(count, 1)) ** 0.5)


def _rows(connection: duckdb.DuckDBPyConnection, file: Path) -> list[Row]:
    found = connection.execute(file.read_text())
    columns = [column[0] for column in found.description or ()]
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]
