"""Policy staleness: which policy each round of a run was made from, and whether the run still holds it.

    stale(n)  =  policy_before(n) != policy that round n - 1 ends with, or stale(n - 1)

A round is made from the policy that the round before ended with. Where that policy has been made again since, and came
out otherwise, the later round's rows are intact but come from a policy no longer in this run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.errors import StoreError
from store.artifacts.artifact import Artifact, load_manifest
from store.artifacts.policy_version import version_after
from store.disk.layout import Layout
from store.runs.records import RoundRecord, RoundRef, config_at, rounds, variants
from store.runs.variants import line_of

_MADE_BY_A_POLICY = ("rollout", "sample", "replay", "update")


@dataclass(frozen=True, slots=True)
class PolicyStaleness:
    """The policies of one round, and whether its run still holds the one it was made from."""

    run: str
    round: int
    variant: str
    policy_before: str | None
    """The version that sampled its messages; None before the first of them."""
    policy_after: str | None
    """The version that its update made; None before that."""
    stale: bool | None
    """Whether a step was made from a policy that the round before no longer ends with, or that round is stale itself.
    None where it cannot be known: nothing was made yet, or the round before has no update."""


class RunStaleness:
    """Tells of every round of one run whether it is stale, looking each up once."""

    def __init__(
        self, layout: Layout, run: str, load: Callable[[Layout, str, str], Artifact | None] = load_manifest
    ) -> None:
        self._layout = layout
        self._run = run
        self._load = load
        self._known: dict[RoundRef, PolicyStaleness] = {}

    def all(self) -> list[PolicyStaleness]:
        """Return the rounds that have begun, of every variant."""
        return [
            # a round before the variant branched off is the parent line's, and a row of the variant too
            replace(self.of(ref), variant=ref.variant)
            for variant in variants(self._layout, self._run)
            for ref in self._rounds(variant)
            if ref.round  # before the first there is only the untrained team's evaluation
        ]

    def later_stale(self, ref: RoundRef) -> list[PolicyStaleness]:
        """Return the stale rounds that come after this one, of its variant and of those that branch off later."""
        return [
            self.of(later)
            for variant in variants(self._layout, self._run)
            if self._line(replace(ref, variant=variant)) == ref
            for later in self._rounds(variant)
            if later.round > ref.round and self._line(later) == later and self.of(later).stale
        ]

    def of(self, ref: RoundRef) -> PolicyStaleness:
        """Return one round's. Where its parent's record holds, it is that round's, `variant` the parent."""
        line = self._line(ref)
        if line not in self._known:
            self._known[line] = self._look_up(line)
        return self._known[line]

    def _rounds(self, variant: str) -> list[RoundRef]:
        return [RoundRef(self._run, round, variant) for round in rounds(self._layout, self._run, variant)]

    def _look_up(self, ref: RoundRef) -> PolicyStaleness:
        made = self._made(ref)
        policies = [artifact.manifest["cache_key_inputs"]["policy"] for artifact in made.values()]
        update = made.get("update")
        return PolicyStaleness(
            ref.run,
            ref.round,
            ref.variant,
            policies[0] if policies else None,
            version_after(update, base_of(update)) if update else None,
            self._stale(ref, list(made.values())),
        )

    def _stale(self, ref: RoundRef, made: list[Artifact]) -> bool | None:
        if not made:
            return None
        if ref.round == 1:
            return False
        before = replace(ref, round=ref.round - 1)
        if self.of(before).stale:
            return True
        update = self._made(self._line(before)).get("update")
        if update is None:
            return None
        # on the base and for the policies of its own configuration, which may be others from this round on
        config = config_at(self._layout, ref.run, ref.round) or {}
        wanted = [version_after(update, base_of(entry), config.get("policies")) for entry in made]
        return [entry.manifest["cache_key_inputs"]["policy"] for entry in made] != wanted

    def _line(self, ref: RoundRef) -> RoundRef:
        try:
            return line_of(self._layout, ref)
        except StoreError:
            return ref  # its variant.json is lost: nobody knows where it branched off, so it stands for itself

    def _made(self, ref: RoundRef) -> dict[str, Artifact]:
        """Return the steps of a round that a policy made, as far as they are there, in order."""
        steps = RoundRecord.load(self._layout, ref).steps
        found = {
            name: self._load(self._layout, steps[name].stage, steps[name].key)
            for name in _MADE_BY_A_POLICY
            if name in steps
        }
        return {name: artifact for name, artifact in found.items() if artifact is not None}


def base_of(artifact: Artifact) -> str:
    """Return the digest of the untrained weights, or of the scripted world, beneath what made an artifact."""
    return str(artifact.manifest["cache_key_inputs"]["weights"]["model"])
