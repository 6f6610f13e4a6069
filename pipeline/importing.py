"""`c3 import`: another system's transcripts as a round's rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.errors import ConfigError
from pipeline.commands import settle_config
from pipeline.planning import wanted_config
from pipeline.runner import Limits, make_part, make_step
from pipeline.scope import Look, Scope
from pipeline.steps import step_named
from stages.imported import imported
from stages.tools import Tools
from store.artifacts import Artifact, find, open_writer
from store.layout import IMPORTED


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
    rollout = _made(scope, replace(rollout_look, key=key, job=job, artifact=find(scope.layout, "rollout", key)))
    settle_config(scope, source, overrides)
    scope.record(problems_look.step, problems)
    scope.record(rollout_look.step, rollout)
    return rollout


def _made(scope: Scope, look: Look) -> Artifact:
    """The step's result, made here if it is not there."""
    if look.artifact is not None:
        return look.artifact
    tools, limits = Tools(), Limits()
    with open_writer(scope.layout, look.step.stage.name, look.key) as writer:
        artifact, _ = make_step(
            writer, look, lambda parts: [make_part(writer, look, part, tools, limits) for part in parts]
        )
    return artifact
