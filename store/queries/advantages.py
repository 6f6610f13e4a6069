"""Credit: an estimator's .sql file over the stored artifacts, and the advantages table it writes.

    rewards -> episodes -> returns -> estimators/<name> -> normalisations/<name> -> advantages

Each arrow is one .sql file; adding an estimator is adding its file (store/queries/estimators.py).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EIO
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import StoreError
from store.artifacts.artifact import Artifact, Row
from store.queries.connection import SQL, add_table, create_view, open_tables, scratch_database
from store.queries.estimators import estimator as find_estimator

if TYPE_CHECKING:  # the name is for annotations: importing this module must not load DuckDB
    import duckdb

_TABLES = ("transcripts", "replays", "rewards", "decisions", "critic_values")
_SMALL = 2**23
"""Bytes of stored artifacts whose credit fits in memory many times over."""
SPILL = ".spill"
"""Folder of what DuckDB cannot hold in memory, while it runs."""


def open_returns(
    artifacts: Sequence[Artifact], group_by: str, ablated: Sequence[Artifact] = ()
) -> duckdb.DuckDBPyConnection:
    """Open a connection that sees `episodes`, `returns`, `critic_values` and `ablated_replay`: all that an estimator reads.

    `artifacts`: those of one round, its rewards the round's own and no others: every one of them counts as an evaluation.
    `ablated`: the artifacts of the replays without a message and of their rewards; without them that view is empty.
    """
    connection = open_tables(artifacts, _TABLES)
    _show_returns(connection, group_by, ablated)
    return connection


def _show_returns(connection: duckdb.DuckDBPyConnection, group_by: str, ablated: Sequence[Artifact]) -> None:
    """Create the views of a round's returns, where its tables are seen."""
    connection.execute((SQL / "stable_sum.sql").read_text())
    connection.execute("SET VARIABLE group_by = ?", [group_by])
    for table in ("interventions", "replays", "rewards"):
        add_table(connection, f"ablated_{table}", table, ablated)
    for name in ("episodes", "returns", "ablated_replay"):
        create_view(connection, name, (SQL / f"{name}.sql").read_text())


def stored_returns(artifacts: Sequence[Artifact]) -> list[Row]:
    """Return every alternative's mean return and replay count (schema: returns.sql), in a fixed order."""
    connection = open_returns(artifacts, "state")
    try:
        found = connection.table("returns").order("problem_id, depth, path")
        return [dict(zip(found.columns, values, strict=True)) for values in found.fetchall()]
    finally:
        connection.close()


def advantages(connection: duckdb.DuckDBPyConnection, estimator: str, normalisation: str) -> duckdb.DuckDBPyRelation:
    """Return the advantages table by one estimator, as a relation over an `open_returns` connection."""
    import duckdb

    try:
        create_view(connection, "credit", find_estimator(estimator).path.read_text())
        create_view(connection, "normalised", (SQL / "normalisations" / f"{normalisation}.sql").read_text())
        connection.execute("SET VARIABLE estimator = ?", [estimator])
        connection.execute("SET VARIABLE normalisation = ?", [normalisation])
        connection.execute((SQL / "advantages.sql").read_text())
        return connection.table("advantages")
    except duckdb.Error as error:
        raise StoreError(f"estimators/{estimator}.sql: {error}") from error


def write_advantages(
    artifacts: Sequence[Artifact],
    estimator: str,
    normalisation: str,
    group_by: str,
    target: Path,
    ablated: Sequence[Artifact] = (),
) -> None:
    """Run an estimator over stored artifacts and write the advantages table, without holding it in memory.

    What does not fit in memory is spilled beside the target meanwhile. OSError when the disk refuses, as from any other
    writer.
    """
    import duckdb

    size = sum(path.stat().st_size for one in (*artifacts, *ablated) for table in _TABLES for path in one.files(table))
    try:
        with scratch_database() if size <= _SMALL else _spilling(target.parent / SPILL) as connection:
            for table in _TABLES:
                add_table(connection, table, table, artifacts)
            _show_returns(connection, group_by, ablated)
            advantages(connection, estimator, normalisation)
            connection.execute((SQL / "write_advantages.sql").read_text(), [str(target)])
    except duckdb.IOException as error:
        number = re.search(r'"errno":"(\d+)"', str(error))  # DuckDB says it in JSON, after its own words
        code = int(number[1]) if number else EIO
        raise OSError(code, os.strerror(code), str(target)) from error
    except duckdb.Error as error:
        raise StoreError(f"estimators/{estimator}.sql: {error}") from error


@contextmanager
def _spilling(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection for more rows than memory holds, which go into the folder meanwhile."""
    connection = open_tables((), ())
    try:
        # the table has an order of its own; that of the stored rows need not be kept on the way
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET temp_directory = ?", [str(folder)])
        # every row of one side of these joins meets one of the other: a filter made from the one lets all pass
        connection.execute("SET disabled_optimizers = 'join_filter_pushdown'")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)
