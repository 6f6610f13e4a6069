"""The tables as a user queries them: views over all runs, rounds and variants, read-only."""

from __future__ import annotations

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
from store.runs.records import references, run_folders
from store.runs.staleness import RunStaleness

_LABELS = pa.schema([(name, pa.string()) for name in ("filename", "run", "variant", "step")] + [("round", pa.int32())])
_READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.PRAGMA}


def open_catalog(layout: Layout) -> duckdb.DuckDBPyConnection:
    """A connection with every table of the store as a view, each row labelled with run, round and variant.

    It can read the store's files and nothing else, and write nothing.
    """
    files: dict[str, dict[str, None]] = {name: {} for name in TABLES}
    labels: list[Row] = []
    paces: dict[str, list[Row]] = {}
    found: dict[tuple[str, str], Artifact | None] = {}
    for reference in references(layout):
        artifact = load_manifest(layout, reference.stage, reference.key)
        found[reference.stage, reference.key] = artifact
        if artifact is None:
            continue
        paces[str(artifact.path)] = step_timing(artifact)
        for table in TABLES:
            for path in filter(Path.exists, artifact.files(table)):  # what a corrupt artifact has left can be asked for
                files[table][str(path)] = None
                labels.append(
                    {
                        "filename": str(path),
                        "run": reference.run,
                        "round": reference.round,
                        "variant": reference.variant,
                        "step": reference.step,
                    }
                )
    connection = duckdb.connect(":memory:")
    connection.execute("SET memory_limit = ?", [MEMORY])
    connection.from_arrow(pa.Table.from_pylist(labels, _LABELS)).create("labels")
    timed = [row for rows in paces.values() for row in rows]
    connection.from_arrow(pa.Table.from_pylist(timed, STEP_TIMING)).create("step_timing")
    rounds = [
        asdict(entry)
        for run in run_folders(layout)
        for entry in RunStaleness(layout, run, lambda _, *name: found.get(name)).all()
    ]
    connection.from_arrow(pa.Table.from_pylist(rounds, ROUNDS)).create("rounds")
    for table, paths in files.items():
        if paths:
            relation = connection.read_parquet(list(paths), filename=True, hive_partitioning=False)
        else:
            relation = connection.from_arrow(TABLES[table].append(pa.field("filename", pa.string())).empty_table())
        relation.create_view(f"{table}_files")
    connection.execute((SQL / "views.sql").read_text())
    _close_doors(connection, layout.artifacts)
    return connection


def _close_doors(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    connection.execute("SET allowed_directories = ?", [[str(folder)]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def query(layout: Layout, text: str) -> duckdb.DuckDBPyRelation:
    """The result of one reading statement. ConfigError with DuckDB's own words when it cannot be run."""
    try:
        connection = open_catalog(layout)
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type not in _READING:
            raise ConfigError("c3 sql: one SELECT at a time; stored rows are never changed")
        relation = connection.sql(text)
    except duckdb.Error as error:
        raise _refusal(error) from None
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
    """A query's rows. ConfigError where a value turns up that the query cannot work with."""
    try:
        return relation.fetchall()
    except duckdb.Error as error:
        raise _refusal(error) from None


def _refusal(error: duckdb.Error) -> ConfigError:
    reason = " ".join(str(error).split("LINE 1:")[0].split())
    cure = "; c3 verify names what is corrupt, and the command that makes it again" if ".parquet" in reason else ""
    return ConfigError(f"c3 sql: {reason}{cure}")


def write_parquet(relation: duckdb.DuckDBPyRelation, path: Path) -> None:
    """A query's rows as one Parquet file."""
    try:
        rows = relation.to_arrow_table()
    except duckdb.Error as error:
        raise _refusal(error) from None
    with writing(path):
        pq.write_table(rows, path)
