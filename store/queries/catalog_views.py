"""The tables as a user queries them: views over all runs, rounds and variants, read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import ConfigError
from store.artifacts.artifact import Artifact, Row, load_manifest
from store.artifacts.schemas import ROUNDS, STEP_TIMING, TABLES
from store.artifacts.step_timing import step_timing
from store.disk.atomic import writing
from store.disk.layout import Layout
from store.queries.connection import MEMORY, SQL
from store.runs.records import Reference, references, run_folders
from store.runs.staleness import RunStaleness

_LABELS = pa.schema([(name, pa.string()) for name in ("filename", "run", "variant", "step")] + [("round", pa.int32())])
_READ_ONLY = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.PRAGMA}


def open_catalog(layout: Layout) -> duckdb.DuckDBPyConnection:
    """Return a connection with every table of the store as a view, each row labelled with run, round, variant and step.

    It can read the store's artifacts and nothing else, and write nothing.
    """
    referenced = list(references(layout))
    artifacts = {
        name: load_manifest(layout, *name) for name in {(entry.stage, entry.key): None for entry in referenced}
    }
    labels = _labels(referenced, artifacts)
    timed = [row for artifact in artifacts.values() if artifact is not None for row in step_timing(artifact)]
    staleness = [
        asdict(entry)
        for run in run_folders(layout)
        for entry in RunStaleness(layout, run, lambda _, *name: artifacts.get(name)).all()
    ]
    connection = duckdb.connect(":memory:")
    connection.execute("SET memory_limit = ?", [MEMORY])
    for name, rows, schema in (
        ("labels", labels, _LABELS),
        ("step_timing", timed, STEP_TIMING),
        ("rounds", staleness, ROUNDS),
    ):
        connection.from_arrow(pa.Table.from_pylist(rows, schema)).create(name)
    for table in TABLES:
        paths = list(dict.fromkeys(row["filename"] for row in labels if Path(row["filename"]).stem == table))
        if paths:
            relation = connection.read_parquet(paths, filename=True, hive_partitioning=False)
        else:
            relation = connection.from_arrow(TABLES[table].append(pa.field("filename", pa.string())).empty_table())
        relation.create_view(f"{table}_files")
    connection.execute((SQL / "views.sql").read_text())
    _lock_down(connection, layout.artifacts)
    return connection


def _labels(referenced: Sequence[Reference], artifacts: Mapping[tuple[str, str], Artifact | None]) -> list[Row]:
    """Return a row for each file that a step refers to (schema: _LABELS), as far as a corrupt artifact still has it."""
    return [
        {
            "filename": str(path),
            "run": reference.run,
            "round": reference.round,
            "variant": reference.variant,
            "step": reference.step,
        }
        for reference in referenced
        if (artifact := artifacts[reference.stage, reference.key]) is not None
        for table in TABLES
        for path in filter(Path.exists, artifact.files(table))
    ]


def _lock_down(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    connection.execute("SET allowed_directories = ?", [[str(folder)]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def query(layout: Layout, text: str) -> duckdb.DuckDBPyRelation:
    """Return the result of one reading statement. ConfigError with DuckDB's own words when it cannot be run."""
    try:
        connection = open_catalog(layout)
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type not in _READ_ONLY:
            raise ConfigError("c3 sql: one SELECT at a time; stored rows are never changed")
        relation = connection.sql(text)
    except duckdb.Error as error:
        raise _query_error(error) from None
    if relation is None:
        raise ConfigError("c3 sql: that statement returns no rows")
    return relation


def table(layout: Layout, name: str) -> duckdb.DuckDBPyRelation:
    """Return one of the views, with the rows of every run, round and variant."""
    return open_catalog(layout).view(name)


def table_of_round(layout: Layout, name: str, run: str, round: int, variant: str) -> duckdb.DuckDBPyRelation:
    """Return one of the views, with the rows of one round alone; none where the round has not run."""
    wanted = {"run": run, "round": round, "variant": variant}
    relation = table(layout, name)
    for column, value in wanted.items():
        relation = relation.filter(duckdb.ColumnExpression(column) == duckdb.ConstantExpression(value))
    return relation


def fetch(relation: duckdb.DuckDBPyRelation) -> list[tuple[Any, ...]]:
    """Return a query's rows. ConfigError where a value turns up that the query cannot work with."""
    try:
        return relation.fetchall()
    except duckdb.Error as error:
        raise _query_error(error) from None


def _query_error(error: duckdb.Error) -> ConfigError:
    message = " ".join(str(error).split("LINE 1:")[0].split())
    cure = "; c3 verify names what is corrupt, and the command that makes it again" if ".parquet" in message else ""
    return ConfigError(f"c3 sql: {message}{cure}")


def write_parquet(relation: duckdb.DuckDBPyRelation, path: Path) -> None:
    """Write a query's rows as one Parquet file. ConfigError as from `fetch`; StoreError when the disk refuses."""
    try:
        rows = relation.to_arrow_table()
    except duckdb.Error as error:
        raise _query_error(error) from None
    with writing(path):
        pq.write_table(rows, path)
