"""Credit: an estimator's .sql file over the stored samples, and the advantages table it writes.

    transcripts, replays, rewards -> episodes -> returns -> estimators/<name> -> normalisations/<name> -> advantages

Each arrow is one .sql file; adding an estimator is adding its file.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from errno import EIO
from pathlib import Path

import duckdb

from configs.errors import ConfigError, StoreError
from store.artifacts import Artifact
from store.query import SQL, open_tables

SPILL = ".spill"
"""Folder of what DuckDB cannot hold in memory, while it runs."""


def estimators() -> list[str]:
    """Names of the estimators: the .sql files."""
    return sorted(path.stem for path in (SQL / "estimators").glob("*.sql"))


def estimator_file(name: str) -> Path:
    """The .sql file of an estimator. ConfigError listing those there are."""
    if name not in estimators():
        raise ConfigError(f"advantages.estimator: no estimator named '{name}'; there is {', '.join(estimators())}")
    return SQL / "estimators" / f"{name}.sql"


def open_returns(artifacts: Sequence[Artifact], group_by: str) -> duckdb.DuckDBPyConnection:
    """A connection that sees `episodes` and `returns`: all that an estimator reads."""
    connection = open_tables(artifacts, ("transcripts", "replays", "rewards", "decisions"))
    connection.execute("SET VARIABLE group_by = ?", [group_by])
    for name in ("episodes", "returns"):
        connection.sql((SQL / f"{name}.sql").read_text()).create_view(name)
    return connection


def advantages(connection: duckdb.DuckDBPyConnection, estimator: str, normalisation: str) -> duckdb.DuckDBPyRelation:
    """The advantages table by one estimator, as a relation over an `open_returns` connection."""
    try:
        connection.sql(estimator_file(estimator).read_text()).create_view("credit")
        connection.sql((SQL / "normalisations" / f"{normalisation}.sql").read_text()).create_view("normalised")
        return connection.sql((SQL / "advantages.sql").read_text(), params=[estimator, normalisation])
    except duckdb.Error as error:
        raise StoreError(f"estimators/{estimator}.sql: {error}") from error


def write_advantages(
    artifacts: Sequence[Artifact], estimator: str, normalisation: str, group_by: str, target: Path
) -> None:
    """Run an estimator over stored samples and write the advantages table, without holding it in memory.

    What does not fit in memory is spilled beside the target meanwhile. OSError when the disk refuses, as from any other
    writer.
    """
    connection = open_returns(artifacts, group_by)
    try:
        # the table has an order of its own; that of the stored rows need not be kept on the way
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET temp_directory = ?", [str(target.parent / SPILL)])
        advantages(connection, estimator, normalisation).write_parquet(str(target), compression="zstd")
    except duckdb.IOException as error:
        number = re.search(r'"errno":"(\d+)"', str(error))  # DuckDB says it in JSON, after its own words
        code = int(number[1]) if number else EIO
        raise OSError(code, os.strerror(code), str(target)) from error
    except duckdb.Error as error:
        raise StoreError(f"estimators/{estimator}.sql: {error}") from error
    finally:
        connection.close()
        shutil.rmtree(target.parent / SPILL, ignore_errors=True)
