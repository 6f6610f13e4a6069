"""`c3 import`: another system's transcripts as a round's rollout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from configs.errors import ConfigError
from pipeline.runner import Limits, make_part, make_step
from pipeline.scope import Look, Scope
from pipeline.steps import step_named
from stages.imported import imported
from stages.tools import Tools
from store.artifacts import Artifact, open_writer
from store.layout import IMPORTED


def import_transcripts(scope: Scope, path: Path) -> Artifact:
    """Make the rollout artifact of a file and point the round at it. ConfigError when the file does not fit the run."""
    if not path.is_file():
        raise ConfigError(f"c3 import {path}: no such file; give JSONL with one episode a line")
    problems = _made(scope, scope.look(step_named("problems"), {}))
    rollout = replace(step_named("rollout"), stage=imported(path))
    look = scope.look(rollout, {"problems": problems})
    key = f"{IMPORTED}{look.key}"
    return _made(scope, replace(look, key=key, job=replace(look.job, output=scope.layout.artifact("rollout", key))))


def _made(scope: Scope, look: Look) -> Artifact:
    """The step's result, made here if it is not there, and recorded for the round."""
    artifact, tools, limits = look.artifact, Tools(), Limits()
    if artifact is None:
        with open_writer(scope.layout, look.step.stage.name, look.key) as writer:
            artifact, _ = make_step(
                writer, look, lambda parts: [make_part(writer, look, part, tools, limits) for part in parts]
            )
    scope.record(look.step, artifact)
    return artifact
