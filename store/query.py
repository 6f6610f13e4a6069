"""DuckDB over Parquet: SQL files run on named tables. Nothing here builds SQL from strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from configs.errors import CheckError
from store.artifacts import Artifact, Row
from store.schemas import TABLES

SQL = Path(__file__).parent / "sql"
MEMORY = "4GB"


def open_tables(artifacts: Sequence[Artifact], names: Sequence[str] = tuple(TABLES)) -> duckdb.DuckDBPyConnection:
    """A connection that sees each named table as a view over those artifacts' parts; empty where none has it."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET memory_limit = ?", [MEMORY])
    for name in names:
        files = [str(path) for artifact in artifacts for path in artifact.files(name)]
        if files:
            connection.read_parquet(files, hive_partitioning=False).create_view(name)
        else:
            connection.from_arrow(TABLES[name].empty_table()).create_view(name)
    return connection


def run_check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Run one check: its query must return no row. CheckError quoting the check's first line and the first row."""
    text = path.read_text()
    offence = connection.execute(text).fetchone()
    if offence is not None:
        columns = [column[0] for column in connection.description or []]
        claim = text.splitlines()[0].removeprefix("--").strip()
        found = ", ".join(f"{name} {value}" for name, value in zip(columns, offence, strict=True))
        raise CheckError(f"check {path.parent.name}/{path.stem} failed: {claim}; first offence: {found}")


def run_checks(stage: str, artifacts: Sequence[Artifact], planned: Sequence[Row]) -> None:
    """All checks of a stage over its own and its inputs' tables, with the plan's `spending` beside them."""
    files = sorted((SQL / "checks" / stage).glob("*.sql"))
    if not files:
        return
    asked = " ".join(path.read_text() for path in files)
    connection = open_tables(artifacts, [name for name in TABLES if name in asked])
    try:
        connection.from_arrow(pa.Table.from_pylist(list(planned), SPENDING)).create_view("spending")
        for path in files:
            run_check(connection, path)
    finally:
        connection.close()


SPENDING = pa.schema(
    [
        ("stage", pa.string()),
        ("role", pa.string()),
        ("depth", pa.int32()),
        ("messages", pa.int64()),  # per problem
        ("evaluations", pa.int64()),  # per problem: episodes that end in this stage at this role
        ("alternatives", pa.int64()),  # per problem: credited decisions of this role made by this stage
        ("replays", pa.int64()),  # terminal evaluations counted towards each of those
    ]
)
"""What one problem of a round costs by the plan, stage by stage and role by role."""


def run_lineage(artifacts: Sequence[Artifact]) -> None:
    """Follow advantages back to messages, contexts, problems and policy. CheckError at the first that gets lost."""
    connection = open_tables(artifacts)
    try:
        for path in sorted((SQL / "lineage").glob("*.sql")):
            run_check(connection, path)
    finally:
        connection.close()
