"""SQL checks that must return no row, run after every step."""

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

    from store.artifacts.schemas import SPENDING, TABLES

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
    from store.artifacts.schemas import TABLES

    with shared_tables(artifacts, list(TABLES)) as connection:
        for path in sorted((SQL / "lineage").glob("*.sql")):
            run_check(connection, path, "lineage")
