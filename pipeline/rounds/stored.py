"""What a round has stored, for commands that look at it and make nothing."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import StoreError
from pipeline.rounds.resolve import StepResolver
from store.artifacts.artifact import Artifact

CREDITED_STEPS = ("rollout", "sample", "replay", "grade")
"""The steps whose rows every estimator reads."""


def stored_artifacts(
    resolver: StepResolver, needed: Sequence[str] = CREDITED_STEPS, also: Sequence[str] = ()
) -> list[Artifact]:
    """Return the results of steps, and of further ones where they are there. StoreError naming what has to run first."""
    there = resolver.resolve_steps().artifacts
    missing = next((name for name in needed if name not in there), None)
    if missing is not None:
        ref = resolver.round.ref
        raise StoreError(
            f"round {ref.round} of run '{ref.run}' has no {missing} with its present configuration; run `c3 run iteration "
            f"{resolver.round.options} --until {missing}` first"
        )
    return [there[name] for name in (*needed, *also) if name in there]
