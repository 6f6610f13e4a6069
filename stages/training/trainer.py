"""One update's training: what ratios and the KL are measured against, gradient steps, and the figures of each step."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import torch

from configs.errors import UpdateError
from configs.schema import Config
from stages.learners.protocol import Learner, TrainRow
from stages.losses.objective import LossReferences, Objective, objective
from stages.losses.reductions import token_weights
from stages.runtime.determinism import deterministic
from stages.training.examples import Minibatch, TrainingExample
from stages.training.lr_schedule import rate_share
from stages.training.optimizers import Optimizers
from stages.training.process_group import ProcessGroup, SingleProcess
from store.artifacts.artifact import Row

_SUMMED = {"ratio_mean": "ratio_T", "clipped_share": "clipped_T", "kl": "kl_T", "entropy": "entropy_T"}
"""Figure -> the tensor that it is the mean of, over the tokens of a role."""


class Trainer:
    """Holds the learner, its optimisers, and the log-probs that the losses are measured against."""

    def __init__(
        self,
        config: Config,
        round: int,
        learner: Learner,
        optimizer_state: Path | None,
        group: ProcessGroup | None = None,
    ) -> None:
        self.learner = learner
        self._crew = group or SingleProcess()
        self.old_logprobs: dict[str, list[float]] = {}
        """decision_id -> the trainer's own log-probs per token before the first step."""
        self.reference_logprobs: dict[str, list[float]] = {}
        """decision_id -> those under the model before any training; only of rows that move something."""
        self._update, self._round = config.update, round
        trained = {name: policy for name, policy in config.policies.items() if not policy.frozen}
        self.optimizers = Optimizers(config.update, trained, learner, optimizer_state)

    def measure(
        self, steps: Sequence[Minibatch], examples: Sequence[TrainingExample], untrained: Sequence[str] = ()
    ) -> None:
        """Recompute the log-probs of all trained examples under the weights as they are now, without a gradient.

        Rows are measured in the micro-batches of the step that first trains them, so that the first step's ratios are
        exactly 1. `untrained`: policies whose weights still are the reference, which is then the same measurement.
        """
        with torch.no_grad(), deterministic():
            for step in steps:
                for batch in self._batches(step.examples):
                    self._measure(batch, batch[0].policy in untrained)
            self._exchange()
            rest = [example for example in examples if example.row.decision_id not in self.old_logprobs]
            for policy in self.optimizers.policies:
                rows = [example.row for example in rest if example.row.policy == policy and example.skipped is None]
                for batch in self.learner.batches(self._crew.share(rows), self._update.max_tokens):
                    for row, scored in zip(batch, self.learner.score(batch), strict=True):
                        self.old_logprobs[row.decision_id] = scored.logprob_T.tolist()
            self._exchange()

    def _exchange(self) -> None:
        """What each process of the crew measured becomes known to all."""
        for old, reference in self._crew.gather((self.old_logprobs, self.reference_logprobs)):
            self.old_logprobs |= old
            self.reference_logprobs |= reference

    def recall(self, trained: Sequence[Row]) -> None:
        """Take over the log-probs that an earlier part measured."""
        for row in trained:
            if row["policy_logprobs"] is not None:
                self.old_logprobs[row["decision_id"]] = row["policy_logprobs"]
            if row["reference_logprobs"] is not None:
                self.reference_logprobs[row["decision_id"]] = row["reference_logprobs"]

    def step(self, plan: Minibatch, steps: int) -> list[Row]:
        """Take one optimiser step, of `steps` in the round, on a minibatch; return figures per role (schema: STEPS)."""
        weights = token_weights(
            [(example.role, len(example.row.token_ids)) for example in plan.examples],
            self._update.reduction,
            self._update.constant_tokens,
        )
        examples = {example.row.decision_id: example for example in plan.examples}
        weight_of = dict(zip(examples, weights, strict=True))
        figures = {example.role: _empty_figures(plan, example.role, example.row.policy) for example in plan.examples}
        self.optimizers.zero()
        with deterministic():
            for batch in self._batches(plan.examples):
                self._backward([examples[row.decision_id] for row in batch], weight_of, figures)
        for policy in self.optimizers.policies:
            self._crew.all_reduce(parameter for _, parameter in self.learner.named_parameters(policy))
        figures = _added(self._crew.gather(figures))
        norms = self.optimizers.descend(rate_share(self._update.schedule, self._round, plan.number, steps))
        return [_closed_figures(row, *norms[row["policy"]]) for row in figures.values()]

    def _batches(self, examples: Sequence[TrainingExample]) -> list[list[TrainRow]]:
        """Yield micro-batches of this process's share of what moves something, policy by policy; its roles share them.

        A row whose advantage is exactly 0 moves nothing where the advantage is all of the loss: nothing is computed for
        it, and it stays in every denominator.
        """
        everything = bool(self._update.kl.coefficient or self._update.entropy_coefficient)
        moving = [example.row for example in examples if example.advantage or everything]
        return [
            batch
            for policy in self.optimizers.policies
            for batch in self.learner.batches(
                self._crew.share([row for row in moving if row.policy == policy]), self._update.max_tokens
            )
        ]

    def _measure(self, batch: Sequence[TrainRow], is_reference: bool) -> None:
        old = [scored.logprob_T.tolist() for scored in self.learner.score(batch)]
        reference = old if is_reference else [found.tolist() for found in self.learner.reference_logprobs(batch)]
        for row, ours, before in zip(batch, old, reference, strict=True):
            self.old_logprobs[row.decision_id], self.reference_logprobs[row.decision_id] = ours, before

    def _backward(
        self, examples: Sequence[TrainingExample], weight_of: dict[str, float], figures: dict[str, Row]
    ) -> None:
        """Add a micro-batch's gradient. UpdateError naming the rows when the loss is not finite."""
        losses, figures_of = [], []
        for example, scored in zip(examples, self.learner.score([example.row for example in examples]), strict=True):
            against = self._against(example, scored.logprob_T)
            advantage = float(example.advantage or 0.0)
            result = objective(self._update, scored.logprob_T, scored.entropy_T, against, advantage)
            losses.append(weight_of[example.row.decision_id] * result.loss_T.sum())
            figures_of.append(_figures(losses[-1], result))
        told = torch.stack(figures_of).tolist()  # at once: a GPU is waited for here
        for example, found in zip(examples, told, strict=True):
            _add(figures[example.role], len(example.row.token_ids), found)
        bad = [
            example.row.decision_id for example, (loss, *_) in zip(examples, told, strict=True) if not isfinite(loss)
        ]
        if bad:
            raise UpdateError(
                f"update: the loss is not finite for {len(bad)} rows ({', '.join(bad[:5])}); no policy version was "
                f"written. Look at them with `c3 sql \"select * from advantages where decision_id = '{bad[0]}'\"`; a lower "
                f"update.learning_rate or float32 usually cures it"
            )
        torch.stack(losses).sum().backward()

    def _against(self, example: TrainingExample, like: torch.Tensor) -> LossReferences:
        def tensor(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        of = example.row.decision_id
        behaviour = example.behaviour_logprobs
        return LossReferences(
            tensor(self.old_logprobs[of]),
            tensor(self.reference_logprobs[of]),
            None if behaviour is None else tensor(behaviour),
        )


def _figures(loss: torch.Tensor, result: Objective) -> torch.Tensor:
    """Return a message's weighted loss and, in the order of `_SUMMED`, its sums; in float64, which holds each exactly."""
    sums = (getattr(result, of).sum() for of in _SUMMED.values())
    return torch.stack([figure.detach().double() for figure in (loss, *sums)])


def _add(figures: Row, tokens: int, found: Sequence[float]) -> None:
    figures["rows"] += 1
    figures["tokens"] += tokens
    for name, figure in zip(("loss", *_SUMMED), found, strict=True):
        figures[name] += figure


def _added(of_all: Sequence[dict[str, Row]]) -> dict[str, Row]:
    """Return the figures of all processes as one: sums by role."""
    summed = ("rows", "tokens", "loss", *_SUMMED)
    return {
        role: {**row, **{name: sum(figures[role][name] for figures in of_all) for name in summed}}
        for role, row in of_all[0].items()
    }


def _empty_figures(plan: Minibatch, role: str, policy: str) -> Row:
    row: Row = {"step": plan.number, "epoch": plan.epoch, "role": role, "policy": policy}
    return {**row, "rows": 0, "tokens": 0, "loss": 0.0, **dict.fromkeys(_SUMMED, 0.0)}


def _closed_figures(row: Row, norm: float, rate: float) -> Row:
    """Turn sums over tokens into means; NULL where nothing moved."""
    means = {name: row[name] / row["tokens"] if row["tokens"] else None for name in _SUMMED}
    return {**row, **means, "gradient_norm": norm, "learning_rate": rate}
