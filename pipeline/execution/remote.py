"""Parts made in other processes, on this machine or others: what is sent there, and what is done there.

What travels is the stage's name, its job without rows, and which part; rows are read from the store, and the part is put
there. The command that asks holds the artifact's lock all the while, so workers take none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.execution.context import ExecutionContext
from pipeline.execution.limits import Limits
from pipeline.execution.runner import make_part
from pipeline.rounds.state import StepState
from pipeline.steps import step_named
from stages.base.inputs import Inputs, Part
from stages.base.job import Job
from stages.base.resources import Resources
from stages.mismatch.engine_check import assume_agreement, ensure_agreement
from store.artifacts.policy_version import PolicyVersion
from store.artifacts.writer import ArtifactWriter
from store.disk.layout import Layout


@dataclass(frozen=True)
class PartTask:
    """Ask a worker for one part. Paths are absolute: a worker has a directory of its own."""

    step: str
    key: str
    store: Path
    job: Job
    part: Part
    ends_at: float | None
    """The time (of time.time) from which it is not begun any more; None: always."""
    engine_checked: bool
    """Whether the command has compared the engine with the trainer: servers are the same for every worker."""


def part_task(state: StepState, layout: Layout, part: Part, limits: Limits) -> PartTask:
    """Return what a worker needs to know to make this part."""
    job = replace(
        state.job,
        inputs=Inputs(
            {name: replace(artifact, path=artifact.path.resolve()) for name, artifact in state.job.inputs.items()}
        ),
        policy=None if state.job.policy is None else _absolute(state.job.policy),
        output=state.job.output.resolve(),
    )
    left = limits.seconds_left
    ends_at = None if left is None else time.time() + left
    return PartTask(state.step.name, state.key, layout.root.resolve(), job, part, ends_at, _shares_servers(state))


def check_shared_engine(state: StepState, resources: Resources) -> None:
    """Compare servers that all workers will ask with the trainer, once for all of them. EngineError when they disagree."""
    if _shares_servers(state):
        ensure_agreement(resources, state.job.config, state.job.weights)


def _shares_servers(state: StepState) -> bool:
    generates = state.step.stage.weights == "samples" and state.step.stage.messages(state.job) > 0
    return generates and state.job.config.engine.has_servers


def run_part_task(task: PartTask) -> dict[str, Any]:
    """Make the part in a worker's process and put it in place; return its record."""
    step = step_named(task.step)
    state = StepState(step, task.job, task.key, {}, None)
    writer = ArtifactWriter(Layout(task.store), step.stage.name, task.key)
    limits = Limits(None if task.ends_at is None else task.ends_at - time.time())
    context = ExecutionContext(limits=limits)
    if task.engine_checked:
        assume_agreement(context.resources, task.job.config, task.job.weights)
    return make_part(writer, state, task.part, context)


def _absolute(policy: PolicyVersion) -> PolicyVersion:
    adapters = {
        name: replace(adapter, directory=None if adapter.directory is None else adapter.directory.resolve())
        for name, adapter in policy.adapters.items()
    }
    return replace(
        policy, adapters=adapters, optimizer=None if policy.optimizer is None else policy.optimizer.resolve()
    )
