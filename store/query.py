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

from configs.errors import CheckError
from store.artifacts import Artifact, Row

if TYPE_CHECKING:  # a finished round is recognised without DuckDB: it is imported where rows are asked for
    import duckdb

SQL = Path(__file__).parent / "sql"
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

    import store.content  # noqa: F401

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
        from store.schemas import TABLES

        connection.from_arrow(TABLES[table].empty_table()).create_view(view)


def create_view(connection: duckdb.DuckDBPyConnection, view: str, text: str) -> None:
    """A query as a view, in place of one of that name. As a relation it would be planned more than once."""
    connection.execute(f'CREATE OR REPLACE VIEW "{view}" AS {text}')


def run_check(connection: duckdb.DuckDBPyConnection, path: Path, step: str) -> None:
    """Run one check: its query must return no row. CheckError quoting the check's first line and the first row."""
    text = _text(path)
    # no relation: each step of one is planned anew, which takes longer than a check
    with connection.cursor() as asking:
        offence = asking.execute(text).fetchone()
        columns = [column[0] for column in asking.description or ()]
    if offence is not None:
        claim = text.splitlines()[0].removeprefix("--").strip()
        found = ", ".join(f"{name} {value}" for name, value in zip(columns, offence, strict=True))
        raise CheckError(f"check {step}/{path.stem} failed: {claim}; first offence: {found}")


_text = lru_cache(Path.read_text)


@lru_cache
def checks_of(step: str, tables: tuple[str, ...]) -> list[Path]:
    """A step's own checks and those of every table that its stage declares, in the order of their names."""
    folders = (SQL / "checks" / step, *(SQL / "checks" / "tables" / table for table in tables))
    files = [path for folder in folders for path in folder.glob("*.sql")]
    return sorted(files, key=lambda path: path.stem)


def run_checks(
    step: str, tables: tuple[str, ...], artifacts: Sequence[Artifact], planned: Sequence[Row] | None
) -> None:
    """All checks of a step over its own and its inputs' rows, with the plan's `spending` beside them.

    `planned`: None leaves out the checks that ask for it. `tables` are those that its stage declares. The last artifact
    is its own; a check that names `own_TABLE` sees the rows of that alone.
    """
    files = [path for path in checks_of(step, tables) if planned is not None or "spending" not in _text(path)]
    if not files:
        return
    import pyarrow as pa

    from store.schemas import SPENDING, TABLES

    asked = " ".join(map(_text, files))
    with shared_tables(artifacts, [name for name in TABLES if name in asked]) as connection:
        for name in (name for name in TABLES if f"own_{name}" in asked):
            add_table(connection, f"own_{name}", name, artifacts[-1:])
        if planned is not None and "spending" in asked:
            connection.from_arrow(pa.Table.from_pylist(list(planned), SPENDING)).create_view("spending")
        for path in files:
            run_check(connection, path, step)


def run_lineage(artifacts: Sequence[Artifact]) -> None:
    """Follow advantages back to messages, contexts, problems and policy. CheckError at the first that gets lost."""
    from store.schemas import TABLES

    with shared_tables(artifacts, list(TABLES)) as connection:
        for path in sorted((SQL / "lineage").glob("*.sql")):
            run_check(connection, path, "lineage")
