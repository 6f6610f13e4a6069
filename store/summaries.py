"""What a command says at the end of a round. DuckDB is imported where figures are not recorded yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from store.artifacts import Artifact, Row
from store.identity import digest
from store.query import SQL, open_tables

if TYPE_CHECKING:
    import duckdb

_FIGURES = SQL / "round_summary.sql"
_SIGNAL = SQL / "signal_summary.sql"


def summary_content(artifacts: list[Artifact]) -> str:
    """Digest of what a summary is made from: the rows and the queries. Equal content, equal summary."""
    rows = sorted([artifact.stage, artifact.digest] for artifact in artifacts)
    return digest([rows, _FIGURES.read_text(), _SIGNAL.read_text()])


def round_summary(artifacts: list[Artifact]) -> tuple[Row, list[Row]]:
    """A round's figures over its rewards, and per role how many groups carry no signal."""
    connection = open_tables(artifacts, ("transcripts", "replays", "rewards", "advantages"))
    try:
        return _rows(connection, _FIGURES)[0], _rows(connection, _SIGNAL)
    finally:
        connection.close()


def accuracy_change(before: Artifact, after: Artifact) -> Row:
    """How greedy accuracy changed, paired by problem, with half the width of its 95% interval."""
    import duckdb

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
