"""Explain an advantage: its group, its states and its replays, read from one round's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from store.artifacts.artifact import Artifact, Row
from store.queries.connection import SQL, open_tables

_TABLES = ("problems", "contexts", "decisions", "transcripts", "replays", "rewards", "advantages", "update_rows")


@dataclass(frozen=True)
class Explanation:
    """Rows of store/sql/why, all empty where nothing was found."""

    chosen: Sequence[str]
    """The decisions that the question picks, in its order."""
    alternatives: Sequence[Row]
    """Every alternative of their groups."""
    states: Mapping[str, Row]
    """By state_id: token ids, upstream messages, question."""
    replays: Mapping[str, Sequence[Row]]
    """By decision_id."""


def explanation_of(artifacts: Sequence[Artifact], question: str, parameters: Mapping[str, Any]) -> Explanation:
    """Answer one of the questions in store/sql/why: `by_id`, `by_advantage` or `tied`."""
    connection = open_tables(artifacts, _TABLES)
    try:
        picked = _rows(connection, question, parameters)
        groups = list(dict.fromkeys(row["group_id"] for row in picked))
        alternatives = _rows(connection, "alternatives", {"groups": groups})
        states = _rows(connection, "states", {"states": [row["state_id"] for row in alternatives]})
        replays: dict[str, list[Row]] = {row["decision_id"]: [] for row in alternatives}
        for row in _rows(connection, "replays", {"decisions": list(replays)}):
            replays[row["decision_id"]].append(row)
    finally:
        connection.close()
    chosen = [row["decision_id"] for row in picked]
    return Explanation(chosen, alternatives, {row["state_id"]: row for row in states}, replays)


def continued(artifacts: Sequence[Artifact], decisions: Sequence[str]) -> list[Row]:
    """Return the terminal evaluations that count towards some messages, with the messages after them (why/replays.sql)."""
    connection = open_tables(artifacts, _TABLES)
    try:
        return _rows(connection, "replays", {"decisions": list(decisions)})
    finally:
        connection.close()


def _rows(connection: duckdb.DuckDBPyConnection, name: str, parameters: Mapping[str, Any]) -> list[Row]:
    text = (SQL / "why" / f"{name}.sql").read_text()
    rows: list[Row] = connection.sql(text, params=dict(parameters)).to_arrow_table().to_pylist()
    return rows
