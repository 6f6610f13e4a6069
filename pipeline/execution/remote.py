"""Parts made in other processes, on this machine or others: what is sent there, and what is done there.

What travels is the stage's name, its job without rows, and which part; rows are read from the store, and the part is put
there. The command that asks holds the artifact's lock all the while, so workers take none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.execution.context import workbench
from pipeline.execution.limits import Limits
from pipeline.execution.runner import make_part
from pipeline.rounds.state import Look
from pipeline.steps import step_named
from stages.base.job import Job, Part
from stages.base.resources import Resources
from stages.mismatch.engine_check import assume_agreement, ensure_agreement
from store.artifacts.policy_version import PolicyVersion
from store.artifacts.writer import ArtifactWriter
from store.disk.layout import Layout


@dataclass(frozen=True)
class Order:
    """One part, asked for from afar. Paths are absolute: a worker has a directory of its own."""

    step: str
    key: str
    store: Path
    job: Job
    part: Part
    ends_at: float | None
    """The time (of time.time) from which it is not begun any more; None: always."""
    engine_checked: bool
    """Whether the command has compared the engine with the trainer: servers are the same for every worker."""


def order(look: Look, layout: Layout, part: Part, limits: Limits) -> Order:
    """What a worker needs to know to make this part."""
    job = replace(
        look.job,
        inputs={name: replace(artifact, path=artifact.path.resolve()) for name, artifact in look.job.inputs.items()},
        policy=None if look.job.policy is None else _absolute(look.job.policy),
        output=look.job.output.resolve(),
    )
    left = limits.seconds_left
    ends_at = None if left is None else time.time() + left
    return Order(look.step.name, look.key, layout.root.resolve(), job, part, ends_at, _shares_servers(look))


def check_shared_engine(look: Look, resources: Resources) -> None:
    """Before anything is ordered: what all workers will ask is compared with the trainer here, once for all of them."""
    if _shares_servers(look):
        ensure_agreement(resources, look.job.config, look.job.weights)


def _shares_servers(look: Look) -> bool:
    generates = look.step.stage.weights == "samples" and look.step.stage.messages(look.job) > 0
    return generates and look.job.config.engine.kind == "vllm_server"


def fill(asked: Order) -> dict[str, Any]:
    """In the worker: make the part and put it in place; its record."""
    step = step_named(asked.step)
    look = Look(step, asked.job, asked.key, {}, None)
    writer = ArtifactWriter(Layout(asked.store), step.stage.name, asked.key)
    limits = Limits(None if asked.ends_at is None else asked.ends_at - time.time())
    resources = workbench().ready()
    if asked.engine_checked:
        assume_agreement(resources, asked.job.config, asked.job.weights)
    return make_part(writer, look, asked.part, resources, limits)


def _absolute(policy: PolicyVersion) -> PolicyVersion:
    adapters = {
        name: replace(adapter, directory=None if adapter.directory is None else adapter.directory.resolve())
        for name, adapter in policy.adapters.items()
    }
    return replace(
        policy, adapters=adapters, optimizer=None if policy.optimizer is None else policy.optimizer.resolve()
    )
