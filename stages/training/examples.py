"""Lessons: what the update learns from, dealt to optimiser steps.

A lesson is one alternative with its advantage. Which lessons fall into which step depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.errors import UpdateError
from stages.base.job import Job
from stages.learners.protocol import TrainRow
from store.artifacts.artifact import Row
from store.disk.ids import seed_from

UNDEFINED = "undefined advantage"
"""Why a lesson without an advantage is skipped."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One alternative: what was seen, what was said, and how much better it was than its siblings."""

    row: TrainRow
    role: str
    problem_id: str
    advantage: float | None
    policy_version: str
    """Of the team that sampled it."""
    behaviour_logprobs: tuple[float, ...] | None
    """The engine's, per token, when it was sampled. None: imported without."""
    skipped: str | None
    """Why it is not trained on; None when it is."""


@dataclass(frozen=True, slots=True)
class Minibatch:
    """One optimiser step: its number from 1, its epoch, and its lessons."""

    number: int
    epoch: int
    examples: tuple[TrainingExample, ...]


def build_examples(job: Job) -> list[TrainingExample]:
    """Return every alternative of the advantages table as a training example, in the table's order."""
    decisions = {row["decision_id"]: row for row in job.rows("decisions")}
    contexts = {row["state_id"]: row for row in job.rows("contexts")}
    return [
        _lesson(job, row, decisions[row["decision_id"]], contexts.get(row["state_id"]))
        for row in job.rows("advantages")
    ]


def _lesson(job: Job, credit: Row, decision: Row, context: Row | None) -> TrainingExample:
    config = job.config.update
    advantage = credit["advantage"]
    skipped = None
    if advantage is None and config.undefined_advantage == "zero":
        advantage = 0.0
    if advantage is None:
        skipped = UNDEFINED
    elif decision["finish_reason"] == "length" and not config.train_truncated:
        skipped = "truncated"
    elif job.config.policies[decision["policy"]].frozen:
        skipped = "frozen policy"
    elif decision["role"] in config.frozen_roles:
        skipped = "frozen role"
    elif config.truncated_importance is not None and decision["behaviour_logprobs"] is None:
        skipped = "no behaviour log-probs"
    row = TrainRow(
        decision["decision_id"],
        decision["policy"],
        tuple(context["token_ids"]) if context else (),
        tuple(decision["token_ids"]),
        job.config.sampling.temperature,
    )
    if skipped is None and context is None:
        raise UpdateError(f"update: decision {decision['decision_id']} has an advantage but no frozen context")
    return TrainingExample(
        row,
        decision["role"],
        decision["problem_id"],
        advantage,
        credit["policy_version"],
        None if decision["behaviour_logprobs"] is None else tuple(decision["behaviour_logprobs"]),
        skipped,
    )


def make_minibatches(job: Job, examples: Sequence[TrainingExample]) -> list[Minibatch]:
    """Return the minibatches: per epoch the problems are shuffled by the seed and dealt to `minibatches` steps.

    A problem's lessons stay together, so that what shares a context is trained together.
    """
    config = job.config.update
    trained = [example for example in examples if example.skipped is None]
    problems = list(dict.fromkeys(example.problem_id for example in trained))
    steps: list[Minibatch] = []
    for epoch in range(1, config.epochs + 1):
        order = sorted(problems, key=lambda problem: seed_from("minibatch", job.config.seed, job.round, epoch, problem))
        hands = [set(order[index :: config.minibatches]) for index in range(config.minibatches)]
        for hand in hands:
            dealt = tuple(example for example in trained if example.problem_id in hand)
            steps.append(Minibatch(len(steps) + 1, epoch, dealt))
    return steps
