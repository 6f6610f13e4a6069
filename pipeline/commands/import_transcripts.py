"""`c3 import`: another system's transcripts as a round's rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import ConfigError
from pipeline.commands.run import settle_config
from pipeline.execution.limits import Limits
from pipeline.execution.runner import make_part, make_step
from pipeline.rounds.plan import wanted_config
from pipeline.rounds.round import Scope
from pipeline.rounds.state import Look
from pipeline.steps import step_named
from stages.base.resources import Resources
from stages.import_rollout import imported
from store.artifacts.artifact import Artifact
from store.artifacts.integrity import load_verified
from store.artifacts.writer import open_writer
from store.disk.layout import IMPORTED


def import_transcripts(scope: Scope, path: Path, source: str | None = None, overrides: Sequence[str] = ()) -> Artifact:
    """Make the rollout artifact of a file and point the round at it. ConfigError when the file does not fit the run.

    `source`, `overrides`: the configuration asked for. It is recorded with the round once the file has been taken: a file
    that is refused leaves the run as it was, or none.
    """
    if not path.is_file():
        raise ConfigError(f"c3 import {path}: no such file; give JSONL with one episode a line")
    asked = scope.under(wanted_config(scope, source, overrides))
    problems_look = asked.look(step_named("problems"), {})
    problems = _made(scope, problems_look)
    rollout_look = asked.look(replace(step_named("rollout"), stage=imported(path)), {"problems": problems})
    key = f"{IMPORTED}{rollout_look.key}"
    job = replace(rollout_look.job, output=scope.layout.artifact("rollout", key))
    rollout = _made(
        scope, replace(rollout_look, key=key, job=job, artifact=load_verified(scope.layout, "rollout", key))
    )
    settle_config(scope, source, overrides)
    scope.record(problems_look.step, problems)
    scope.record(rollout_look.step, rollout)
    return rollout


def _made(scope: Scope, look: Look) -> Artifact:
    """The step's result, made here if it is not there."""
    if look.artifact is not None:
        return look.artifact
    resources, limits = Resources(), Limits()
    with open_writer(scope.layout, look.step.stage.name, look.key) as writer:
        artifact, _ = make_step(
            writer, look, lambda parts: [make_part(writer, look, part, resources, limits) for part in parts]
        )
    return artifact
