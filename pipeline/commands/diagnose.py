"""`c3 diagnose`: what a round's credit is worth. Spends replays only where they are requested, and says first how many."""

from __future__ import annotations

from typing import Any

from pipeline.commands.session import Session
from pipeline.steps import DIAGNOSIS
from stages.base.job import IndependentReplayJob
from stages.independent_replay import single_replay_cost
from store.artifacts.artifact import Artifact, Row
from store.runs.records import edit_round


def request_replays(session: Session, replays: int | None) -> str:
    """Record how many independent replays of each alternative the round's diagnosis may spend; None: as recorded before.

    Returns a line on their cost, or on what one of each would cost. StoreError when the round has not run so far.
    """
    given = session.resolver.inputs_of(DIAGNOSIS)
    if replays is not None:
        with edit_round(session.round.layout, session.resolver.line("independent_replay")) as record:
            record.independent_replays = replays
        session.resolver.reload()
    state = session.resolver.resolve(DIAGNOSIS.steps[0], given)
    assert isinstance(state.job, IndependentReplayJob)
    cost, times = single_replay_cost(state.job), session.resolver.independent_replays
    price = (
        f"{cost['alternatives'] * max(times, 1):,} evaluations, {cost['messages'] * max(times, 1):,} messages, "
        f"{cost['tokens_at_most'] * max(times, 1):,} new tokens at most"
    )
    if not times:
        return f"no independent replays; --replays 1 would buy one of each alternative: {price}"
    there = " (there already)" if state.artifact is not None else ""
    return f"{times} independent replays of each of {cost['alternatives']:,} alternatives: {price}{there}"


def figures_of(artifact: Artifact) -> list[Row]:
    """Return the figures, role by role."""
    return artifact.rows("diagnostics")


def as_json(session: Session, artifact: Artifact) -> dict[str, Any]:
    """Return the figures as plain data for JSON."""
    return {
        **session.round.label,
        "independent_replays": session.resolver.independent_replays,
        "figures": figures_of(artifact),
    }
