"""What a round has stored, for commands that look at it and make nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from configs.errors import StoreError
from pipeline.rounds.round import Scope
from store.artifacts.artifact import Artifact
from store.runs.records import rounds
from store.runs.variants import steps_of

SAMPLES = ("rollout", "sample", "replay", "grade")
"""The steps whose rows every estimator reads."""


def stored_artifacts(scope: Scope, needed: Sequence[str] = SAMPLES, also: Sequence[str] = ()) -> list[Artifact]:
    """The results of these steps, and of further ones where they are there. StoreError naming what has to run first."""
    there = scope.walk().artifacts
    missing = next((name for name in needed if name not in there), None)
    if missing is not None:
        variant = "" if scope.variant == "main" else f" --variant {scope.variant}"
        raise StoreError(
            f"round {scope.round} of run '{scope.run}' has no {missing} with its present configuration; run `c3 run iteration "
            f"--run {scope.run} --round {scope.round}{variant} --until {missing}` first"
        )
    return [there[name] for name in (*needed, *also) if name in there]


def latest_round(scope: Scope, step: str) -> Scope:
    """The scope of the latest round in which a step is recorded. StoreError when there is none."""
    for round in reversed(rounds(scope.layout, scope.run, scope.variant)):
        if step in steps_of(scope.layout, replace(scope.ref, round=round)):
            return Scope(scope.store, scope.run, round, scope.variant)
    raise StoreError(f"run '{scope.run}' ({scope.variant}) has no {step} in any round; `c3 status` shows what there is")
