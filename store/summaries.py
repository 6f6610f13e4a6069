"""What a command says at the end of a round. Without pyarrow: a finished round is told in little more than a second."""

from __future__ import annotations

from pathlib import Path

import duckdb

from store.artifacts import Artifact, Row
from store.query import SQL, open_tables


def round_summary(artifacts: list[Artifact]) -> tuple[Row, list[Row]]:
    """A round's figures over its rewards, and per role how many groups carry no signal."""
    connection = open_tables(artifacts, ("transcripts", "replays", "rewards", "advantages"))
    try:
        return _rows(connection, SQL / "round_summary.sql")[0], _rows(connection, SQL / "signal_summary.sql")
    finally:
        connection.close()


def accuracy_change(before: Artifact, after: Artifact) -> Row:
    """How greedy accuracy changed, paired by problem, with half the width of its 95% interval."""
    connection = duckdb.connect(":memory:")
    try:
        for name, artifact in (("before", before), ("after", after)):
            connection.read_parquet([str(path) for path in artifact.files("evaluations")]).create_view(name)
        return _rows(connection, SQL / "accuracy_change.sql")[0]
    finally:
        connection.close()


def _rows(connection: duckdb.DuckDBPyConnection, file: Path) -> list[Row]:
    relation = connection.sql(file.read_text())
    return [dict(zip(relation.columns, values, strict=True)) for values in relation.fetchall()]
