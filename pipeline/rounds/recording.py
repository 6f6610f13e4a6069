"""Write down what became of a round's steps. Artifacts know nothing of rounds; these records point at them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from configs.errors import StoreError
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import Round
from pipeline.rounds.state import StepState
from pipeline.steps import Step, list_with
from stages.base.job import GradeJob
from store.artifacts.artifact import Artifact
from store.runs.records import RoundRecord, StepRecord, edit_round


def record_result(resolver: StepResolver, step: Step, artifact: Artifact) -> None:
    """Point a round's step at its result, and forget an earlier failure of it."""
    round, entry = resolver.round, StepRecord(artifact.stage, artifact.key, artifact.digest)
    if _is_recorded(round, step, entry):
        return  # a store that cannot be written to can still be looked at
    with edit_round(round.layout, round.ref) as record:
        record.failures.pop(step.name, None)
        if list_with(step.name).recorded_as == "steps":
            record.steps[step.name] = entry
        else:
            record.add_intervention(_question(round)).steps[step.name] = entry
    resolver.reload()


def _is_recorded(round: Round, step: Step, entry: StepRecord) -> bool:
    record = RoundRecord.load(round.layout, round.ref)
    if list_with(step.name).recorded_as == "steps":
        steps = record.steps
    else:
        found = record.find_intervention(_question(round))
        steps = found.steps if found else {}
    return steps.get(step.name) == entry and step.name not in record.failures


def _question(round: Round) -> dict[str, Any]:
    return asdict(round.intervention) if round.intervention else {}


def record_retry(resolver: StepResolver, state: StepState) -> None:
    """Request that what is missing in a step's rewards is graded again, from now on."""
    assert isinstance(state.job, GradeJob)
    name, attempt = state.step.name, state.job.retry
    with edit_round(resolver.round.layout, resolver.line(name)) as record:
        # what was requested when the step had another key is forgotten
        record.retries[name] = [*record.retries.get(name, [])[:attempt], state.key]
    resolver.reload()


def record_failure(resolver: StepResolver, step: Step, reason: str) -> None:
    """Remember why a step could not be made, for `c3 status`."""
    try:
        with edit_round(resolver.round.layout, resolver.round.ref) as record:
            record.failures[step.name] = reason
    except StoreError:
        return  # a disk that cannot take the note must not hide the error it is about
    resolver.reload()
