"""Update: a clipped policy gradient on exactly the stored tokens; the next policy version.

Reads advantages, contexts and decisions; writes per part the adapters and the optimiser's state after its steps, the
figures of each step, and (in the first part) what was trained, with the log-probs the ratio is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.lessons import Lesson, collect, deal
from stages.stage import Job, Part, Stage
from stages.tools import Tools
from store.artifacts import Product, Row, read_part
from store.identity import seed_from
from store.layout import part_name
from store.policies import OPTIMIZER, WEIGHTS, PolicyVersion, policy_in

if TYPE_CHECKING:
    from stages.training import Trainer


def _slice(job: Job) -> dict[str, Any]:
    config = job.config
    return {
        "seed": config.seed,
        "round": job.round,
        "update": config.update.model_dump(mode="json"),
        "policies": {name: policy.model_dump(mode="json") for name, policy in sorted(config.policies.items())},
        "temperature": config.sampling.temperature,
    }


def _cut(job: Job) -> list[Part]:
    steps = job.config.update.epochs * job.config.update.minibatches
    return [Part(index) for index in range(ceil(steps / job.config.update.checkpoint_steps))]


def _make(part: Part, job: Job, tools: Tools) -> Product:
    from stages.training import Trainer  # torch, only where weights are trained

    lessons = collect(job)
    steps = deal(job, lessons)
    size = job.config.update.checkpoint_steps
    learner = tools.learner(job.config)
    learner.load(_start(part, job), seed_from("adapter", job.config.seed))
    learner.prepare([lesson.row for lesson in lessons if lesson.skipped is None])
    trainer = Trainer(job.config, job.round, learner, _optimizer_state(part, job))
    if part.index == 0:
        later = {lesson.row.decision_id for step in steps[1:] for lesson in step.lessons}
        trainer.measure([lesson for lesson in lessons if lesson.row.decision_id in later])
    else:
        trainer.recall(read_part(job.output / part_name(0), "trained"))
    figures = [row for step in steps[part.index * size : (part.index + 1) * size] for row in trainer.step(step)]
    tables: dict[str, Sequence[Row]] = {"steps": figures}
    if part.index == 0:
        tables["trained"] = [_trained_row(lesson, trainer.old_logprobs) for lesson in lessons]
    return Product(tables, partial(_write_weights, trainer))


def _start(part: Part, job: Job) -> PolicyVersion:
    """The weights this part goes on from: the part before it, or the frozen policy."""
    if part.index == 0:
        return job.weights
    return policy_in(job.output / part_name(part.index - 1), job.weights.base, list(job.config.policies))


def _optimizer_state(part: Part, job: Job) -> Path | None:
    return job.output / part_name(part.index - 1) / OPTIMIZER if part.index else job.weights.optimizer


def _write_weights(trainer: Trainer, folder: Path) -> None:
    trainer.learner.save(folder / WEIGHTS)
    trainer.save_optimizer(folder / OPTIMIZER)


def _trained_row(lesson: Lesson, old_logprobs: Mapping[str, Sequence[float]]) -> Row:
    """What became of one alternative, and how far engine and trainer are apart on it."""
    policy, behaviour = old_logprobs.get(lesson.row.decision_id), lesson.behaviour_logprobs
    both = zip(policy, behaviour, strict=True) if policy is not None and behaviour is not None else ()
    gaps = [abs(ours - theirs) for ours, theirs in both]
    return {
        "decision_id": lesson.row.decision_id,
        "role": lesson.role,
        "advantage": lesson.advantage,
        "skipped": lesson.skipped,
        "behaviour_logprob": None if behaviour is None else sum(behaviour),
        "policy_logprob": None if policy is None else sum(policy),
        "largest_gap": max(gaps) if gaps else None,
        "policy_logprobs": None if policy is None else list(policy),
    }


UPDATE = Stage("update", 1, _slice, _cut, _make, sequential=True, weights="trains")
