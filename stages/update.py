"""Update: a clipped policy gradient on exactly the stored tokens; the next policy version.

Reads advantages, contexts and decisions; writes per part the weights and the optimiser's state after its steps, the
figures of each step, and (in the first part) what was trained, with the log-probs the ratio is measured against, and how
far engine and trainer are apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.base.job import Job, Part
from stages.base.resources import Tools
from stages.base.stage import Stage
from stages.learners.identity import coarser_dtype
from stages.mismatch.gaps import check_gaps, gaps, refuse_strangers
from stages.training.examples import Lesson, StepPlan, collect, deal
from store.artifacts.artifact import Product, Row, read_part
from store.artifacts.policy_version import OPTIMIZER, WEIGHTS, PolicyVersion, policy_in
from store.disk.ids import seed_from
from store.disk.layout import part_name

if TYPE_CHECKING:
    from stages.learners.protocol import Learner
    from stages.training.process_group import Crew
    from stages.training.trainer import Trainer


def _slice(job: Job) -> dict[str, Any]:
    config = job.config
    return {
        "seed": config.seed,
        "round": job.round,
        "update": config.update.model_dump(mode="json", exclude={"keep_model", "dtype", "processes"})
        | (
            {"processes": config.update.processes} if config.update.processes > 1 else {}
        ),  # alone is as before there were more
        "policies": {name: policy.model_dump(mode="json") for name, policy in sorted(config.policies.items())},
        "sampling": config.sampling.model_dump(mode="json", include={"temperature", "top_p", "top_k"}),
    }


def _cut(job: Job) -> list[Part]:
    steps = job.config.update.epochs * job.config.update.minibatches
    return [Part(index) for index in range(ceil(steps / job.config.update.checkpoint_steps))]


def _make(part: Part, job: Job, tools: Tools) -> Product:
    from stages.training.process_group import Alone  # torch, only where weights are trained

    refuse_strangers(job)
    if job.config.update.processes == 1:
        return trained(part, job, tools.learner(job.config), Alone())
    from stages.training.launch import train_together

    tools.make_room()
    return train_together(trained, part, job)


def trained(part: Part, job: Job, learner: Learner, crew: Crew) -> Product:
    """One part, as one process of the crew makes it: all make the same rows and weights."""
    from stages.training.trainer import Trainer

    lessons = collect(job)
    steps = deal(job, lessons)
    size = job.config.update.checkpoint_steps
    learner.load(_start(part, job), seed_from("adapter", job.config.seed))
    learner.prepare([lesson.row for lesson in lessons if lesson.skipped is None])
    trainer = Trainer(job.config, job.round, learner, _optimizer_state(part, job), crew)
    tables: dict[str, Sequence[Row]] = {}
    if part.index == 0:
        tables = _measured(trainer, job, lessons, steps)
    else:
        trainer.recall(read_part(job.output / part_name(0), "trained"))
    mine = steps[part.index * size : (part.index + 1) * size]
    tables["steps"], pace = _stepped(trainer, mine, len(steps))
    tokens = sum(row["tokens"] for row in tables["steps"])
    return Product(tables, partial(_write_weights, trainer), {"trained_tokens": tokens}, pace)


def _stepped(trainer: Trainer, mine: Sequence[StepPlan], steps: int) -> tuple[list[Row], list[Row]]:
    """Take these of the round's steps: their figures, and how long each took."""
    rows: list[Row] = []
    pace: list[Row] = []
    for plan in mine:
        started = time.perf_counter()
        rows += trainer.step(plan, steps)
        pace.append({"step": plan.number, "seconds": round(time.perf_counter() - started, 6)})
    return rows, pace


def _measured(
    trainer: Trainer, job: Job, lessons: Sequence[Lesson], steps: Sequence[StepPlan]
) -> dict[str, Sequence[Row]]:
    """What is known before the first step. UpdateError when the rows cannot be of the weights that are loaded."""
    untrained = [name for name, adapter in job.weights.adapters.items() if adapter.directory is None]
    trainer.measure(steps[: job.config.update.minibatches], lessons, untrained)
    learned = [lesson for lesson in lessons if lesson.skipped is None]
    check_gaps(job.config, job.weights.version, coarser_dtype(job.config), learned, trainer.old_logprobs)
    return {
        "trained": [_trained_row(lesson, trainer) for lesson in lessons],
        "gaps": gaps(learned, trainer.old_logprobs),
    }


def _start(part: Part, job: Job) -> PolicyVersion:
    """The weights this part goes on from: the part before it, or the frozen policy."""
    if part.index == 0:
        return job.weights
    return policy_in(job.output / part_name(part.index - 1), job.weights.base, list(job.config.policies))


def _optimizer_state(part: Part, job: Job) -> Path | None:
    return job.output / part_name(part.index - 1) / OPTIMIZER if part.index else job.weights.optimizer


def _write_weights(trainer: Trainer, folder: Path) -> None:
    trainer.learner.save(folder / WEIGHTS)
    trainer.optimizers.save(folder / OPTIMIZER)


def _trained_row(lesson: Lesson, trainer: Trainer) -> Row:
    """What became of one alternative, and how far engine and trainer are apart on it."""
    policy, behaviour = trainer.old_logprobs.get(lesson.row.decision_id), lesson.behaviour_logprobs
    both = zip(policy, behaviour, strict=True) if policy is not None and behaviour is not None else ()
    gap = [abs(ours - theirs) for ours, theirs in both]
    return {
        "decision_id": lesson.row.decision_id,
        "role": lesson.role,
        "advantage": lesson.advantage,
        "skipped": lesson.skipped,
        "behaviour_logprob": None if behaviour is None else sum(behaviour),
        "policy_logprob": None if policy is None else sum(policy),
        "largest_gap": max(gap) if gap else None,
        "policy_logprobs": policy,
        "reference_logprobs": trainer.reference_logprobs.get(lesson.row.decision_id),
    }


UPDATE = Stage("update", 2, ("trained", "gaps", "steps"), _slice, _cut, _make, sequential=True, weights="trains")
