"""DuckDB over stored tables: views over an artifact's files, and a scratch database that leaves nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from store.artifacts.artifact import Artifact, StageOutput
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.queries.connection import open_tables, scratch_database, shared_tables


def _problems(store: Path, key: str, *ids: str) -> Artifact:
    rows = [{"problem_id": name, "suite": "s", "question": "q", "answer": "a"} for name in ids]
    with open_writer(Layout(store), "stage", key) as writer:
        return writer.finish([writer.write(0, StageOutput({"problems": rows}), 0.0)], {})


def _ids(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT problem_id FROM problems ORDER BY ALL").fetchall()]


def test_a_view_is_over_every_artifact_that_has_the_table(tmp_path: Path) -> None:
    store = tmp_path / "it's a store"  # a quote in a path is no end of it
    artifacts = [_problems(store, "a", "1", "2"), _problems(store, "b", "3")]
    with open_tables(artifacts, ("problems", "rewards")) as connection:
        assert _ids(connection) == ["1", "2", "3"]
        assert connection.execute("SELECT count(*) FROM rewards").fetchone() == (0,)


def test_the_shared_connection_sees_the_artifacts_of_each_caller(store: Path) -> None:
    first, second = _problems(store, "a", "1"), _problems(store, "b", "2")
    for artifacts, ids in (([first], ["1"]), ([second], ["2"]), ([first, second], ["1", "2"]), ([], [])):
        with shared_tables(artifacts, ("problems",)) as connection:
            assert _ids(connection) == ids


def test_a_scratch_database_is_empty_each_time_also_after_an_error() -> None:
    def fail() -> None:
        with scratch_database() as connection:
            connection.execute("CREATE TABLE mine AS SELECT 1 AS number")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for _ in range(2):
        with scratch_database() as connection:
            connection.execute("CREATE TABLE mine AS SELECT 1 AS number")
            assert connection.execute("SELECT * FROM mine").fetchall() == [(1,)]
    with shared_tables((), ()) as connection, pytest.raises(duckdb.CatalogException):
        connection.execute("SELECT * FROM mine")
