"""Run SQL checks, which must return no row, after every step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import CheckError
from store.artifacts.artifact import Artifact, Row
from store.queries.connection import SQL, add_table, shared_tables

if TYPE_CHECKING:
    import duckdb


def run_check(connection: duckdb.DuckDBPyConnection, path: Path, step: str) -> None:
    """Run one check: its query must return no row. CheckError quoting the check's first line and the first row."""
    text = _text(path)
    # no relation: DuckDB plans each step of one anew, which takes longer than a check
    with connection.cursor() as cursor:
        offence = cursor.execute(text).fetchone()
        columns = [column[0] for column in cursor.description or ()]
    if offence is not None:
        claim = text.splitlines()[0].removeprefix("--").strip()
        found = ", ".join(f"{name} {value}" for name, value in zip(columns, offence, strict=True))
        raise CheckError(f"check {step}/{path.stem} failed: {claim}; first offence: {found}")


_text = lru_cache(Path.read_text)


@lru_cache
def checks_of(step: str, tables: tuple[str, ...]) -> list[Path]:
    """Return a step's own checks and those of every table that its stage declares, in the order of their names."""
    folders = (SQL / "checks" / step, *(SQL / "checks" / "tables" / table for table in tables))
    files = [path for folder in folders for path in folder.glob("*.sql")]
    return sorted(files, key=lambda path: path.stem)


def run_checks(
    step: str, tables: tuple[str, ...], artifacts: Sequence[Artifact], planned: Sequence[Row] | None
) -> None:
    """Run all checks of a step over its own and its inputs' rows. CheckError at the first that fails.

    `tables`: those that its stage declares. `artifacts`: the step's own is the last; a check that names `own_TABLE`
    sees the rows of that alone. `planned`: what the plan spends (schema: SPENDING); None leaves out the checks that
    read it.
    """
    files = [path for path in checks_of(step, tables) if planned is not None or "spending" not in _text(path)]
    if not files:
        return
    import pyarrow as pa

    from store.artifacts.schemas import SPENDING, TABLES

    text = " ".join(map(_text, files))
    with shared_tables(artifacts, [name for name in TABLES if name in text]) as connection:
        for name in (name for name in TABLES if f"own_{name}" in text):
            add_table(connection, f"own_{name}", name, artifacts[-1:])
        if planned is not None and "spending" in text:
            connection.from_arrow(pa.Table.from_pylist(list(planned), SPENDING)).create_view("spending")
        for path in files:
            run_check(connection, path, step)


def run_lineage(artifacts: Sequence[Artifact]) -> None:
    """Follow advantages back to messages, contexts, problems and policy. CheckError at the first break."""
    from store.artifacts.schemas import TABLES

    with shared_tables(artifacts, list(TABLES)) as connection:
        for path in sorted((SQL / "lineage").glob("*.sql")):
            run_check(connection, path, "lineage")
