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

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.learners.identity import coarser_dtype
from stages.mismatch.logprob_mismatch import check_mismatch, logprob_mismatch, reject_off_policy_rows
from stages.training.examples import Minibatch, TrainingExample, build_examples, make_minibatches
from store.artifacts.artifact import Row, StageOutput, read_part
from store.artifacts.policy_version import OPTIMIZER, WEIGHTS, PolicyVersion, policy_in
from store.disk.ids import seed_from
from store.disk.layout import part_name

if TYPE_CHECKING:
    from stages.learners.protocol import Learner
    from stages.training.process_group import ProcessGroup
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


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    from stages.training.process_group import SingleProcess  # torch, only where weights are trained

    reject_off_policy_rows(job)
    if job.config.update.processes == 1:
        return trained(part, job, resources.learner(job.config), SingleProcess())
    from stages.training.launch import train_together

    resources.release_memory()
    return train_together(trained, part, job)


def trained(part: Part, job: Job, learner: Learner, group: ProcessGroup) -> StageOutput:
    """Make one part in one process of the group: all make the same rows and weights."""
    from stages.training.trainer import Trainer

    examples = build_examples(job)
    steps = make_minibatches(job, examples)
    size = job.config.update.checkpoint_steps
    learner.load(_start(part, job), seed_from("adapter", job.config.seed))
    learner.prepare([example.row for example in examples if example.skipped is None])
    trainer = Trainer(job.config, job.round, learner, _optimizer_state(part, job), group)
    tables: dict[str, Sequence[Row]] = {}
    if part.index == 0:
        tables = _measured(trainer, job, examples, steps)
    else:
        trainer.recall(read_part(job.output / part_name(0), "update_rows"))
    mine = steps[part.index * size : (part.index + 1) * size]
    tables["steps"], step_timing = _take_steps(trainer, mine, len(steps))
    tokens = sum(row["tokens"] for row in tables["steps"])
    return StageOutput(tables, partial(_write_weights, trainer), {"trained_tokens": tokens}, step_timing)


def _take_steps(trainer: Trainer, mine: Sequence[Minibatch], steps: int) -> tuple[list[Row], list[Row]]:
    """Take these of the round's steps: their figures, and how long each took."""
    rows: list[Row] = []
    step_timing: list[Row] = []
    for plan in mine:
        started = time.perf_counter()
        rows += trainer.step(plan, steps)
        step_timing.append({"step": plan.number, "seconds": round(time.perf_counter() - started, 6)})
    return rows, step_timing


def _measured(
    trainer: Trainer, job: Job, examples: Sequence[TrainingExample], steps: Sequence[Minibatch]
) -> dict[str, Sequence[Row]]:
    """Return what is known before the first step. UpdateError when the rows cannot be of the weights that are loaded."""
    untrained = [name for name, adapter in job.weights.adapters.items() if adapter.directory is None]
    trainer.measure(steps[: job.config.update.minibatches], examples, untrained)
    learned = [example for example in examples if example.skipped is None]
    check_mismatch(job.config, job.weights.version, coarser_dtype(job.config), learned, trainer.old_logprobs)
    return {
        "update_rows": [_trained_row(example, trainer) for example in examples],
        "logprob_mismatch": logprob_mismatch(learned, trainer.old_logprobs),
    }


def _start(part: Part, job: Job) -> PolicyVersion:
    """Return the weights this part goes on from: the part before it, or the frozen policy."""
    if part.index == 0:
        return job.weights
    return policy_in(job.output / part_name(part.index - 1), job.weights.base, list(job.config.policies))


def _optimizer_state(part: Part, job: Job) -> Path | None:
    return job.output / part_name(part.index - 1) / OPTIMIZER if part.index else job.weights.optimizer


def _write_weights(trainer: Trainer, folder: Path) -> None:
    trainer.learner.save(folder / WEIGHTS)
    trainer.optimizers.save(folder / OPTIMIZER)


def _trained_row(example: TrainingExample, trainer: Trainer) -> Row:
    """Return what became of one alternative, and how far engine and trainer are apart on it."""
    policy, behaviour = trainer.old_logprobs.get(example.row.decision_id), example.behaviour_logprobs
    both = zip(policy, behaviour, strict=True) if policy is not None and behaviour is not None else ()
    gap = [abs(ours - theirs) for ours, theirs in both]
    return {
        "decision_id": example.row.decision_id,
        "role": example.role,
        "advantage": example.advantage,
        "skipped": example.skipped,
        "behaviour_logprob": None if behaviour is None else sum(behaviour),
        "policy_logprob": None if policy is None else sum(policy),
        "largest_mismatch": max(gap) if gap else None,
        "policy_logprobs": policy,
        "reference_logprobs": trainer.reference_logprobs.get(example.row.decision_id),
    }


UPDATE = Stage(
    "update", 2, ("update_rows", "logprob_mismatch", "steps"), _slice, _cut, _make, sequential=True, weights="trains"
)
