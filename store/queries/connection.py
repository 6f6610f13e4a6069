"""DuckDB over Parquet: SQL files run on named tables.

No query is built from strings. A view's definition takes no parameters, so its own name and the files' quoted paths are put in.
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
    """A connection that sees each named table as a view over those artifacts' parts; empty where none has it."""
    connection = _connected()
    for name in names:
        add_table(connection, name, name, artifacts)
    return connection


@contextmanager
def shared_tables(artifacts: Sequence[Artifact], names: Sequence[str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """The same on the process's one connection, for a short query: to open one takes longer. Nobody else's meanwhile."""
    with _sharing:
        connection, standing = _shared()
        for name in names:
            files = [path for artifact in artifacts for path in artifact.files(name)]
            if standing.get(name) != files:  # the steps of a round see much the same
                add_table(connection, name, name, artifacts)
                standing[name] = files
        yield connection


@contextmanager
def shared_room() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of its own on that connection, empty, and gone afterwards with all that was made in it."""
    with _sharing, _shared()[0].cursor() as connection:
        connection.execute("DETACH DATABASE IF EXISTS room")  # of one that was left by an error
        connection.execute("ATTACH ':memory:' AS room")
        connection.execute("USE room")
        yield connection
        connection.execute("USE memory")
        connection.execute("DETACH room")


@lru_cache(maxsize=1)
def _shared() -> tuple[duckdb.DuckDBPyConnection, dict[str, list[Path]]]:
    """The connection, and the files that each table's view is over."""
    atexit.register(_shared.cache_clear)  # DuckDB complains of what is still open when Python ends
    return _connected(), {}


_sharing = Lock()


@lru_cache(maxsize=1)
def warm_up() -> None:
    """Open it once, and import what writing rows needs: for who has to wait for something else anyway."""
    import pyarrow.parquet  # noqa: F401

    import store.artifacts.content_digest  # noqa: F401

    with shared_tables((), ("rewards",)) as connection:
        connection.execute("SELECT count(*) FROM rewards").fetchall()


def _connected() -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET memory_limit = ?", [MEMORY])
    return connection


def add_table(connection: duckdb.DuckDBPyConnection, view: str, table: str, artifacts: Sequence[Artifact]) -> None:
    """One table over those artifacts' parts as a view of that name; empty where none has it."""
    files = [str(path).replace("'", "''") for artifact in artifacts for path in artifact.files(table)]
    if files:
        listed = ", ".join(f"'{path}'" for path in files)
        create_view(connection, view, f"FROM read_parquet([{listed}], hive_partitioning = false)")
    else:
        from store.artifacts.schemas import TABLES

        connection.from_arrow(TABLES[table].empty_table()).create_view(view)


def create_view(connection: duckdb.DuckDBPyConnection, view: str, text: str) -> None:
    """A query as a view, in place of one of that name. As a relation it would be planned more than once."""
    connection.execute(f'CREATE OR REPLACE VIEW "{view}" AS {text}')
