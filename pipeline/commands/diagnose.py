"""`c3 diagnose`: what a round's credit is worth. Spends replays only where they are asked for, and says first how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.rounds.round import Scope
from pipeline.steps import DIAGNOSIS
from stages.independent_replay import asked_for
from store.artifacts.artifact import Artifact, Row
from store.runs.records import edit_round


def settle_replays(scope: Scope, replays: int | None) -> str:
    """Let the round's diagnosis spend so many independent replays of each alternative; None: as before.

    Returns what they come to, or what one of each would. StoreError when the round has not run so far.
    """
    given = scope.artifacts_beside(DIAGNOSIS)
    if replays is not None:
        with edit_round(scope.layout, replace(scope.ref, variant=scope.line("independent_replay"))) as record:
            record.independent_replays = replays
        scope.__dict__.pop("independent_replay_count", None)
    look = scope.look(DIAGNOSIS[0], given)
    cost, times = asked_for(look.job), scope.independent_replay_count
    price = (
        f"{cost['alternatives'] * max(times, 1):,} evaluations, {cost['messages'] * max(times, 1):,} messages, "
        f"{cost['tokens_at_most'] * max(times, 1):,} new tokens at most"
    )
    if not times:
        return f"no independent replays; --replays 1 would buy one of each alternative: {price}"
    there = " (there already)" if look.artifact is not None else ""
    return f"{times} independent replays of each of {cost['alternatives']:,} alternatives: {price}{there}"


def figures_of(artifact: Artifact) -> list[Row]:
    """The figures, role by role."""
    return artifact.rows("diagnostics")


def as_json(scope: Scope, artifact: Artifact) -> dict[str, Any]:
    """The same as plain data."""
    return {**scope.name, "independent_replay_count": scope.independent_replay_count, "figures": figures_of(artifact)}
