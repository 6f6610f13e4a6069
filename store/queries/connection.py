"""DuckDB over Parquet: SQL files run on named tables.

No query is built from strings. Only a view's definition, which takes no parameters, has its name and the files' quoted
paths put in.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from store.artifacts.artifact import Artifact

if TYPE_CHECKING:  # a finished round is recognised without DuckDB: it is imported where rows are asked for
    import duckdb

SQL = Path(__file__).parents[1] / "sql"
MEMORY = "4GB"


def open_tables(artifacts: Sequence[Artifact], names: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """Return a connection that sees each named table as a view over those artifacts' parts; empty where none has it."""
    connection = _connect()
    for name in names:
        add_table(connection, name, name, artifacts)
    return connection


@contextmanager
def shared_tables(artifacts: Sequence[Artifact], names: Sequence[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield the process's shared connection, held exclusively, with views as `open_tables` makes them.

    For short queries: opening a connection takes longer than they do.
    """
    with _shared_lock:
        connection, views = _shared_connection()
        for name in names:
            files = [path for artifact in artifacts for path in artifact.files(name)]
            if views.get(name) != files:  # the steps of a round see much the same
                add_table(connection, name, name, artifacts)
                views[name] = files
        yield connection


@contextmanager
def scratch_database() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield the shared connection, held exclusively, in an empty database of its own that is dropped afterwards."""
    with _shared_lock, _shared_connection()[0].cursor() as connection:
        connection.execute("DETACH DATABASE IF EXISTS scratch")  # one that an error left
        connection.execute("ATTACH ':memory:' AS scratch")
        connection.execute("USE scratch")
        yield connection
        connection.execute("USE memory")
        connection.execute("DETACH scratch")


@lru_cache(maxsize=1)
def _shared_connection() -> tuple[duckdb.DuckDBPyConnection, dict[str, list[Path]]]:
    """Return the connection, and the files that each table's view is over."""
    atexit.register(_shared_connection.cache_clear)  # DuckDB complains of a connection that is open when Python ends
    return _connect(), {}


_shared_lock = Lock()


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Open the shared connection and import what writing rows needs: for a caller that has to wait anyway."""
    import pyarrow.parquet  # noqa: F401

    import store.artifacts.content_digest  # noqa: F401

    with shared_tables((), ("rewards",)) as connection:
        connection.execute("SELECT count(*) FROM rewards").fetchall()


def _connect() -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET memory_limit = ?", [MEMORY])
    return connection


def add_table(connection: duckdb.DuckDBPyConnection, view: str, table: str, artifacts: Sequence[Artifact]) -> None:
    """Create a view of that name over one table of those artifacts' parts; empty where none has it."""
    files = [str(path).replace("'", "''") for artifact in artifacts for path in artifact.files(table)]
    if files:
        listed = ", ".join(f"'{path}'" for path in files)
        create_view(connection, view, f"FROM read_parquet([{listed}], hive_partitioning = false)")
    else:
        from store.artifacts.schemas import TABLES

        connection.from_arrow(TABLES[table].empty_table()).create_view(view)


def create_view(connection: duckdb.DuckDBPyConnection, view: str, text: str) -> None:
    """Create a view from a query, replacing one of that name. As a relation it would be planned more than once."""
    connection.execute(f'CREATE OR REPLACE VIEW "{view}" AS {text}')
