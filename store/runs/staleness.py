"""Descent: which policy each round of a run was made from, and whether the run still holds it.

    stale(n)  =  policy_before(n) != policy that round n - 1 ends with, or stale(n - 1)

A round is made from the policy that the round before ended with. Where that one has since been drawn or made again, the
rows of the later round are whole and true, but of a policy that no round of the run ends with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from configs.errors import StoreError
from store.artifacts.artifact import Artifact, load_manifest
from store.artifacts.policy_version import version_after
from store.disk.hashing import digest
from store.disk.layout import Layout
from store.runs import records as catalog
from store.runs.variants import line_of

_MADE_BY_A_POLICY = ("rollout", "sample", "replay", "update")


@dataclass(frozen=True, slots=True)
class Descent:
    """One round's place in its run."""

    run: str
    round: int
    variant: str
    policy_before: str | None
    """The version that its messages are of; None before the first of them."""
    policy_after: str | None
    """The version that its update made; None before that."""
    stale: bool | None
    """Whether any of it was made from a policy that the round before no longer ends with, or that round is stale itself;
    None where nobody can say, because nothing was made yet or the round before has no update."""


class Descents:
    """Every round of one run."""

    def __init__(
        self, layout: Layout, run: str, load_manifest: Callable[[Layout, str, str], Artifact | None] = load_manifest
    ) -> None:
        self._layout = layout
        self._run = run
        self._described = load_manifest
        self._known: dict[tuple[str, int], Descent] = {}

    def all(self) -> list[Descent]:
        """The rounds that have begun, of every variant."""
        return [
            # a round before the variant branched off is the parent line's, and a row of the variant too
            replace(self.of(variant, round), variant=variant)
            for variant in catalog.variants(self._layout, self._run)
            for round in catalog.rounds(self._layout, self._run, variant)
            if round  # before the first there is only the untrained team's evaluation
        ]

    def later_stale(self, variant: str, round: int) -> list[Descent]:
        """The stale rounds that come after this one, of this variant and of those that branch off later."""
        return [
            self.of(name, later)
            for name in catalog.variants(self._layout, self._run)
            if self._line(name, round) == variant
            for later in catalog.rounds(self._layout, self._run, name)
            if later > round and self._line(name, later) == name and self.of(name, later).stale
        ]

    def of(self, variant: str, round: int) -> Descent:
        """One round."""
        variant = self._line(variant, round)
        if (variant, round) not in self._known:
            self._known[variant, round] = self._look(variant, round)
        return self._known[variant, round]

    def _look(self, variant: str, round: int) -> Descent:
        made = self._made(variant, round)
        policies = [artifact.manifest["cache_key_inputs"]["policy"] for artifact in made.values()]
        update = made.get("update")
        return Descent(
            self._run,
            round,
            variant,
            policies[0] if policies else None,
            version_after(update, base_of(update)) if update else None,
            self._stale(variant, round, list(made.values())),
        )

    def _stale(self, variant: str, round: int, made: list[Artifact]) -> bool | None:
        if not made:
            return None
        if round == 1:
            return False
        if self.of(variant, round - 1).stale:
            return True
        before = self._made(self._line(variant, round - 1), round - 1).get("update")
        if before is None:
            return None
        # on the base and for the policies of its own configuration, which may be others from this round on
        config = catalog.recorded_config(self._layout, self._run, round) or {}
        wanted = [version_after(before, base_of(entry), config.get("policies")) for entry in made]
        return [entry.manifest["cache_key_inputs"]["policy"] for entry in made] != wanted

    def _line(self, variant: str, round: int) -> str:
        try:
            return line_of(self._layout, self._run, variant, round)
        except StoreError:
            return variant  # its variant.json is lost: where it branched off nobody can say, so it stands for itself

    def _made(self, variant: str, round: int) -> dict[str, Artifact]:
        """The steps of a round that a policy made, as far as they are there, in order."""
        steps = catalog.round_steps(self._layout, self._run, round, variant)
        found = {
            name: self._described(self._layout, steps[name]["stage"], steps[name]["key"])
            for name in _MADE_BY_A_POLICY
            if name in steps
        }
        return {name: artifact for name, artifact in found.items() if artifact is not None}


def base_of(artifact: Artifact) -> str:
    """The digest of the untrained weights beneath what made it. A scripted world has no files: its definition stands for them."""
    weights = artifact.manifest["cache_key_inputs"]["weights"]
    return str(weights.get("model") or digest(weights))
