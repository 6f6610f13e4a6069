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

from pathlib import Path
from typing import Any

from configs.errors import C3Error, ConfigError
from pipeline.rounds.round import Scope
from pipeline.rounds.state import Walk
from pipeline.steps import DIAGNOSIS, EVALUATION, ROUND, Step, names
from stages.problems import HELDOUT, PROBLEMS
from store.artifacts.artifact import PART_RECORD, load_manifest
from store.artifacts.integrity import corruption
from store.disk.layout import Layout
from store.disk.locks import lock_owner
from store.runs.records import RoundRecord, RoundRef, StepRecord, rounds, run_folders, runs, variants
from store.runs.staleness import RunStaleness
from store.runs.variants import steps_of

Standing = dict[str, Any]
"""run, variant, round; states: step -> state, of the steps that the round has; notes: lines for a person."""

_BOUGHT = ("independent_replay", "independent_grade")
"""Steps of a diagnosis with independent replays."""
_TROUBLE = ("partial", "running", "failed", "corrupt")


def standings(store: Path, run: str | None = None) -> list[Standing]:
    """One entry per run, variant and round that has begun. ConfigError naming the runs there are, when it is none of them."""
    layout = Layout(store)
    if run is not None and run not in (known := run_folders(layout)):
        raise ConfigError(f"--run {run}: no such run; there is {', '.join(known) or 'none yet'}")
    found = []
    for name in runs(layout) if run is None else [run]:
        staleness = RunStaleness(layout, name)
        for variant in variants(layout, name):
            for round in rounds(layout, name, variant):
                after_stale = round > 1 and staleness.of(RoundRef(name, round - 1, variant)).stale is True
                itself = round > 0 and staleness.of(RoundRef(name, round, variant)).stale is True
                found.append(_standing(Scope(store, name, round, variant), after_stale, itself))
    return found


def _standing(scope: Scope, after_stale: bool, itself: bool) -> Standing:
    """`after_stale`: whether the round before is stale. What follows its policy is as stale, though it fits it.

    `itself`: whether this round is: so is what stands beside it, which was made from its policies.
    """
    recorded = steps_of(scope.layout, scope.ref)
    failures = RoundRecord.load(scope.layout, scope.ref).failures
    states: dict[str, str] = {}
    notes: list[str] = []
    for steps in (_round(scope), EVALUATION, DIAGNOSIS):
        walk = _walk(scope, steps, recorded)
        for step in steps:
            state = _state(scope, step, walk, recorded.get(step.name), failures)
            if (
                (after_stale if steps not in (EVALUATION, DIAGNOSIS) else itself)
                and state in ("made", "reused")
                and step.stage not in (PROBLEMS, HELDOUT)
            ):
                state = "stale"
            if step.name in _BOUGHT and state not in _TROUBLE and not scope.independent_replay_count:
                continue  # nothing was bought: they are there and empty, or not there
            states[step.name] = state
            place = f"{scope.run} round {scope.round} {scope.variant} {step.name}"
            if state == "failed":
                notes.append(f"{place}: {failures[step.name]}")
            elif state == "running":
                notes.append(f"{place}: {_running(scope, step, walk)}")
    return {"run": scope.run, "variant": scope.variant, "round": scope.round, "states": states, "notes": notes}


def _round(scope: Scope) -> tuple[Step, ...]:
    """The round's steps; as most rounds have them where its configuration cannot be read."""
    try:
        return scope.steps
    except C3Error:
        return ROUND


def _walk(scope: Scope, steps: tuple[Step, ...], recorded: dict[str, StepRecord]) -> Walk:
    """How far the steps are there; nothing when even the first key cannot be known (no model, no policy)."""
    try:
        if steps is EVALUATION:
            return scope.walk(steps, scope.policy_after) if scope.config.evaluate.problems else Walk()
        if steps is DIAGNOSIS and not (scope.independent_replay_count or recorded.keys() & set(names(DIAGNOSIS))):
            return Walk()  # nobody asked for one
        return scope.walk(steps) if scope.round else Walk()
    except C3Error:
        return Walk()


def _state(scope: Scope, step: Step, walk: Walk, entry: StepRecord | None, failures: dict[str, str]) -> str:
    look = next((look for look in walk.looks if look.step is step), None)
    if look is not None and look.artifact is not None:
        return "made" if look.artifact.manifest["created_for"] == scope.name else "reused"
    if look is not None and _running(scope, step, walk):
        return "running"
    if step.name in failures:
        return "failed"
    if look is not None and any(look.job.output.glob(f"part-*/{PART_RECORD}")):
        return "partial" if entry is None or entry.key != look.key else "corrupt"
    if entry is None:
        return "missing"
    artifact = load_manifest(scope.layout, entry.stage, entry.key)
    if artifact is None or corruption(artifact):
        return "corrupt"
    return "stale" if walk.looks else "made"


def _running(scope: Scope, step: Step, walk: Walk) -> str | None:
    look = next((look for look in walk.looks if look.step is step), None)
    return lock_owner(scope.layout, f"{step.stage.name}-{look.key}") if look is not None else None
