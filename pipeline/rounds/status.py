"""`c3 status`: rounds by steps, and what each is.

made      there, and what the recorded configuration asks for
reused    the same, made for another run, round or variant
stale     there, but made by an earlier configuration or from something since made again, in its round or one before
partial   some parts are there; the next run goes on from them
running   a live process is making it
failed    the last attempt ended in an error
corrupt   there, but not as it was written
missing   not made yet
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from configs.errors import C3Error, ConfigError
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import load_round
from pipeline.rounds.state import RoundState
from pipeline.steps import DIAGNOSIS, EVALUATION, ROUND, Step, StepList
from stages.problems import HELDOUT, PROBLEMS
from store.artifacts.artifact import PART_RECORD, load_manifest
from store.artifacts.integrity import corruption
from store.disk.layout import Layout
from store.disk.locks import lock_owner
from store.runs.records import RoundRecord, RoundRef, StepRecord, rounds, run_folders, runs, variants
from store.runs.staleness import RunStaleness
from store.runs.variants import steps_of

_INDEPENDENT = ("independent_replay", "independent_grade")
"""Steps of a diagnosis with independent replays."""
_TROUBLE = ("partial", "running", "failed", "corrupt")


@dataclass(frozen=True)
class RoundStatus:
    """Say how far one round is."""

    run: str
    variant: str
    round: int
    states: dict[str, str] = field(default_factory=dict)
    """Step -> state, of the steps that the round has."""
    notes: list[str] = field(default_factory=list)
    """Lines for a person."""


def round_statuses(layout: Layout, run: str | None = None) -> list[RoundStatus]:
    """Return the status of every run, variant and round that has begun.

    ConfigError naming the runs there are, when `run` is none of them.
    """
    if run is not None and run not in (known := run_folders(layout)):
        raise ConfigError(f"--run {run}: no such run; there is {', '.join(known) or 'none yet'}")
    found = []
    for name in runs(layout) if run is None else [run]:
        staleness = RunStaleness(layout, name)
        for variant in variants(layout, name):
            for number in rounds(layout, name, variant):
                ref = RoundRef(name, number, variant)
                after_stale = number > 1 and staleness.of(replace(ref, round=number - 1)).stale is True
                itself = number > 0 and staleness.of(ref).stale is True
                found.append(_RoundReader(layout, ref).status(after_stale, itself))
    return found


class _RoundReader:
    """Find out the state of each step of one round, also where its configuration cannot be read."""

    def __init__(self, layout: Layout, ref: RoundRef) -> None:
        self._layout, self._ref = layout, ref
        self._recorded = steps_of(layout, ref)
        self._failures = RoundRecord.load(layout, ref).failures
        try:
            self._resolver: StepResolver | None = StepResolver(load_round(layout, ref))
        except C3Error:
            self._resolver = None

    def status(self, after_stale: bool, itself: bool) -> RoundStatus:
        """Return the round's status.

        `after_stale`: whether the round before is stale. What follows its policy is as stale, though it fits it.
        `itself`: whether this round is: so is what stands beside it, which was made from its policies.
        """
        ref = self._ref
        status = RoundStatus(ref.run, ref.variant, ref.round)
        for steps in (self._resolver.steps if self._resolver else ROUND, EVALUATION, DIAGNOSIS):
            there = self._resolve(steps)
            for step in steps:
                state = self._state(step, there)
                if (itself if steps.beside else after_stale) and state in ("made", "reused"):
                    state = state if step.stage in (PROBLEMS, HELDOUT) else "stale"
                if step.name in _INDEPENDENT and state not in _TROUBLE and not self._independent_replays():
                    continue  # none were requested: they are there and empty, or not there
                status.states[step.name] = state
                reason = {"failed": self._failures.get(step.name), "running": self._owner(step, there)}.get(state)
                if reason:
                    status.notes.append(f"{ref.run} round {ref.round} {ref.variant} {step.name}: {reason}")
        return status

    def _independent_replays(self) -> int:
        return self._resolver.independent_replays if self._resolver else 0

    def _resolve(self, steps: StepList) -> RoundState:
        """Return how far the steps are there; nothing when even the first key cannot be known (no model, no policy)."""
        resolver = self._resolver
        if resolver is None:
            return RoundState()
        evaluates = resolver.round.config.evaluate.problems is not None
        diagnoses = bool(resolver.independent_replays or self._recorded.keys() & set(DIAGNOSIS.names))
        wanted = {EVALUATION.name: evaluates, DIAGNOSIS.name: diagnoses}.get(steps.name, self._ref.round > 0)
        try:
            return resolver.resolve_steps(steps) if wanted else RoundState()
        except C3Error:
            return RoundState()

    def _state(self, step: Step, there: RoundState) -> str:
        found, entry = there.of(step.name), self._recorded.get(step.name)
        if found is not None and found.artifact is not None:
            return "made" if found.artifact.manifest["created_for"] == found.requested_by else "reused"
        if found is not None and self._owner(step, there):
            return "running"
        if step.name in self._failures:
            return "failed"
        if found is not None and any(found.job.output.glob(f"part-*/{PART_RECORD}")):
            return "partial" if entry is None or entry.key != found.key else "corrupt"
        return self._recorded_state(entry, bool(there.steps))

    def _recorded_state(self, entry: StepRecord | None, resolved: bool) -> str:
        """Return the state of a step whose result under the recorded configuration is not there."""
        if entry is None:
            return "missing"
        artifact = load_manifest(self._layout, entry.stage, entry.key)
        if artifact is None or corruption(artifact):
            return "corrupt"
        return "stale" if resolved else "made"

    def _owner(self, step: Step, there: RoundState) -> str | None:
        """Return which process is making a step; None when none is."""
        found = there.of(step.name)
        return lock_owner(self._layout, f"{step.stage.name}-{found.key}") if found is not None else None
