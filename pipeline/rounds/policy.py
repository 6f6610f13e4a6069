"""Which policy a round starts from, and which it ends with."""

from __future__ import annotations

from dataclasses import replace

from configs.errors import StoreError
from pipeline.rounds.round import Round
from stages.models.identity import base_digest
from store.artifacts.integrity import corruption_at, load_verified
from store.artifacts.policy_version import PolicyVersion, initial_policy, policy_of
from store.runs.variants import steps_of


def policy_before(round: Round) -> PolicyVersion:
    """Return the frozen policy that a round starts from: the update of the round before, or the untrained model.

    StoreError naming the command to run when that update has not run, or is corrupt.
    """
    return _policy_of(round, round.ref.round - 1, round.config.update.max_version_lag)


def policy_after(round: Round) -> PolicyVersion:
    """Return the policy that a round ended with; of round 0 the untrained model. StoreError as for policy_before."""
    return _policy_of(round, round.ref.round)


def has_predecessor(round: Round) -> bool:
    """Return whether the round before has run to its update (round 1 needs none)."""
    before = replace(round.ref, round=round.ref.round - 1)
    return round.ref.round <= 1 or "update" in steps_of(round.layout, before)


def _policy_of(round: Round, number: int, lag: int = 0) -> PolicyVersion:
    """Return the policy after round `number`, or the round's own override.

    With it come the versions of `lag` rounds before, as far as there are any.
    """
    if round.policy is not None:
        return round.policy
    layout, run = round.layout, round.ref.run
    names = list(round.config.policies)
    base = base_digest(round.config.engine)
    if number == 0:
        return initial_policy(base, names)
    command = f"c3 run iteration --run {run} --round {number}"
    entry = steps_of(layout, replace(round.ref, round=number)).get("update")
    if entry is None:
        raise StoreError(
            f"run '{run}': the policy of round {number} is needed, but that round has not run to its update; "
            f"run `{command}` first"
        )
    artifact = load_verified(layout, entry.stage, entry.key)
    if artifact is None:
        raise StoreError(
            f"run '{run}': the policy of round {number} is missing or corrupt "
            f"({corruption_at(layout, entry.stage, entry.key)}); run `{command}` to make it again"
        )
    policy = policy_of(artifact, base, names)
    if not lag:
        return policy
    before = _policy_of(round, number - 1, lag - 1)
    return replace(policy, earlier=(before.version, *before.earlier))
