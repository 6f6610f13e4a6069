"""`c3 import`: another system's transcripts as a round's rollout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.errors import ConfigError
from pipeline.commands.session import RoundOptions, planned_round, record_options
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import StepRun
from pipeline.rounds.recording import record_result
from pipeline.rounds.resolve import StepResolver
from pipeline.steps import ROUND
from stages.base.resources import Resources
from stages.import_rollout import imported
from store.artifacts.artifact import Artifact


def import_transcripts(options: RoundOptions, path: Path) -> Artifact:
    """Make the rollout artifact of a file and point the round at it. ConfigError when the file does not fit the run.

    The configuration is recorded with the round once the file has been taken: a file that is refused leaves the run as it
    was, or none.
    """
    if not path.is_file():
        raise ConfigError(f"c3 import {path}: no such file; give JSONL with one episode a line")
    resolver, context = StepResolver(planned_round(options)), ExecutionContext(resources=Resources())
    problems = StepRun(resolver, resolver.resolve(ROUND.step("problems"), {}), context, recorded=False)
    step = replace(ROUND.step("rollout"), stage=imported(path))
    state = resolver.imported(step, {"problems": problems.make_here()})
    rollout = StepRun(resolver, state, context, recorded=False)
    artifact = rollout.make_here()
    record_options(options)
    for run in (problems, rollout):
        record_result(resolver, run.state.step, run.make_here())
    return artifact
