"""Interventions: their returns beside those of the alternatives at the same states, read from a round's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from store.artifacts.artifact import Artifact, Row
from store.queries.connection import SQL, open_tables
from store.queries.why import continued


def named_states(artifacts: Sequence[Artifact], name: str) -> list[Row]:
    """Return the frozen state (state_id, role) that a state's or decision's id names; empty when there is none."""
    return _rows(artifacts, ("contexts", "decisions"), "states", {"id": name})


def interventions(round: Sequence[Artifact], answer: Sequence[Artifact]) -> list[Row]:
    """Return every intervention of an answer (its intervention and score artifacts) beside its state.

    Schema: what_if/interventions.sql. `round`: the round's problems and advantages.
    """
    tables = ("problems", "advantages", "interventions", "replays", "rewards")
    own = [artifact for artifact in round if artifact.files("problems") or artifact.files("advantages")]
    return _rows([*own, *answer], tables, "interventions", {})


def alternatives(round: Sequence[Artifact], state: str) -> list[Row]:
    """Return the alternatives of a state with their returns. Schema: what_if/alternatives.sql."""
    return _rows(round, ("advantages", "decisions"), "alternatives", {"state": state})


def endings(answer: Sequence[Artifact], intervention: str) -> list[Row]:
    """Return how each replay of an intervention went on and what it earned. Schema: why/replays.sql."""
    return continued(answer, [intervention])


def _rows(artifacts: Sequence[Artifact], tables: Sequence[str], name: str, parameters: Mapping[str, Any]) -> list[Row]:
    connection = open_tables(artifacts, tables)
    try:
        text = (SQL / "what_if" / f"{name}.sql").read_text()
        rows: list[Row] = connection.sql(text, params=dict(parameters)).to_arrow_table().to_pylist()
    finally:
        connection.close()
    return rows
