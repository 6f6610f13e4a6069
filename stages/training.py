"""One update's training: optimiser, gradient steps, and the figures of each step.

Axes: A alternatives (rows) of a micro-batch, T tokens of all of them laid end to end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from configs.errors import UpdateError
from configs.schema import Config
from stages.learners.protocol import Learner
from stages.lessons import Lesson, StepPlan
from stages.losses.clipped_policy_gradient import clipped_policy_gradient
from stages.losses.reductions import token_weights
from store.artifacts import Row


class Trainer:
    """Holds the learner, one AdamW per policy, and the log-probs that ratios are measured against."""

    def __init__(self, config: Config, round: int, learner: Learner, optimizer_state: Path | None) -> None:
        self.learner = learner
        self.old_logprobs: dict[str, list[float]] = {}
        """decision_id -> the trainer's own log-probs per token before the first step."""
        self._update = config.update
        self._policies = {name: policy for name, policy in config.policies.items() if not policy.frozen}
        parameters = {name: [parameter for _, parameter in learner.named_parameters(name)] for name in self._policies}
        self._optimizers = {
            name: torch.optim.AdamW(
                parameters[name],
                lr=(policy.learning_rate or config.update.learning_rate)
                * _annealed(config.update.anneal_rounds, round),
                betas=config.update.betas,
                weight_decay=config.update.weight_decay,
            )
            for name, policy in self._policies.items()
            if parameters[name]  # a table has none before any of its contexts was trained
        }
        if optimizer_state is not None:
            self._load_optimizer(optimizer_state)

    def measure(self, lessons: Sequence[Lesson]) -> None:
        """Recompute the log-probs of these lessons under the weights as they are now, without a gradient.

        A row whose advantage is exactly 0 moves nothing, so nothing is computed for it; it stays in every denominator.
        """
        with torch.no_grad():
            for policy in self._optimizers:
                rows = [lesson.row for lesson in lessons if lesson.row.policy == policy and lesson.advantage]
                for batch in self.learner.batches(rows, self._update.max_tokens):
                    for row, logprob_T in zip(batch, self.learner.logprobs(batch), strict=True):
                        self.old_logprobs[row.decision_id] = logprob_T.tolist()

    def recall(self, trained: Sequence[Row]) -> None:
        """Take over the log-probs that an earlier part measured."""
        self.old_logprobs = {
            row["decision_id"]: row["policy_logprobs"] for row in trained if row["policy_logprobs"] is not None
        }

    def step(self, plan: StepPlan) -> list[Row]:
        """One optimiser step on the plan's lessons; a row of figures per role (schema: STEPS)."""
        weights = token_weights(
            [(lesson.role, len(lesson.row.token_ids)) for lesson in plan.lessons], self._update.reduction
        )
        weight_of = {lesson.row.decision_id: weight for lesson, weight in zip(plan.lessons, weights, strict=True)}
        figures: dict[str, Row] = {}
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        for role in dict.fromkeys(lesson.role for lesson in plan.lessons):
            lessons = {lesson.row.decision_id: lesson for lesson in plan.lessons if lesson.role == role}
            figures[role] = _empty_figures(plan, role, next(iter(lessons.values())).row.policy)
            moving = [lesson.row for lesson in lessons.values() if lesson.advantage]
            for batch in self.learner.batches(moving, self._update.max_tokens):
                self._backward([lessons[row.decision_id] for row in batch], weight_of, figures[role])
        norms = self._descend()
        return [_closed_figures(row, norms[row["policy"]], self._rate(row["policy"])) for row in figures.values()]

    def _backward(self, lessons: Sequence[Lesson], weight_of: dict[str, float], figures: Row) -> None:
        """Add a micro-batch's gradient. UpdateError naming the rows when the loss is not finite."""
        logprobs = self.learner.logprobs([lesson.row for lesson in lessons])
        losses = []
        for lesson, policy_logprob_T in zip(lessons, logprobs, strict=True):
            # without an earlier measurement this is the first step: the weights are still the old ones
            old = self.old_logprobs.setdefault(lesson.row.decision_id, policy_logprob_T.detach().tolist())
            result = clipped_policy_gradient(
                policy_logprob_T,
                torch.tensor(old, dtype=policy_logprob_T.dtype, device=policy_logprob_T.device),
                float(lesson.advantage or 0.0),
                clip=self._update.clip,
                ratio=self._update.ratio,
            )
            losses.append(weight_of[lesson.row.decision_id] * result.loss_T.sum())
            figures["ratio_mean"] += float(result.ratio_T.detach().sum())
            figures["clipped_share"] += float(result.clipped_T.sum())
            figures["rows"] += 1
            figures["tokens"] += len(lesson.row.token_ids)
        loss = torch.stack(losses).sum()
        if not bool(torch.isfinite(loss)):
            bad = [
                lesson.row.decision_id
                for lesson, row_loss in zip(lessons, losses, strict=True)
                if not isfinite(float(row_loss.detach()))
            ]
            raise UpdateError(
                f"update: the loss is not finite for {len(bad)} rows ({', '.join(bad[:5])}); no policy version was "
                f"written. Look at them with `c3 sql \"select * from advantages where decision_id = '{bad[0]}'\"`; a lower "
                f"update.learning_rate or float32 usually cures it"
            )
        loss.backward()
        figures["loss"] += float(loss.detach())

    def _descend(self) -> dict[str, float]:
        """Clip each policy's gradient and take the step; the norms before clipping."""
        norms = {}
        for name, optimizer in self._optimizers.items():
            parameters = [parameter for _, parameter in self.learner.named_parameters(name)]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._update.max_gradient_norm))
            if not isfinite(norm):
                raise UpdateError(
                    f"update: the gradient of policy '{name}' is not finite ({norm}); no policy version was written. "
                    f'Lower update.learning_rate, or set engine.dtype = "float32"'
                )
            norms[name] = norm
            optimizer.step()
        return norms

    def _rate(self, policy: str) -> float:
        return float(self._optimizers[policy].param_groups[0]["lr"])

    def save_optimizer(self, folder: Path) -> None:
        """AdamW's state per policy, as safetensors by parameter name."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, optimizer in self._optimizers.items():
            tensors = {
                f"{parameter_name}:{key}": value.contiguous()
                for parameter_name, parameter in self.learner.named_parameters(name)
                for key, value in optimizer.state.get(parameter, {}).items()
            }
            save_file(tensors, folder / f"{name}.safetensors")
        (folder / "optimizer.json").write_text(json.dumps({"kind": "adamw"}) + "\n", encoding="utf-8")

    def _load_optimizer(self, folder: Path) -> None:
        for name, optimizer in self._optimizers.items():
            path = folder / f"{name}.safetensors"
            if not path.exists():
                continue  # a policy that was frozen until now starts afresh
            stored = load_file(path)
            for parameter_name, parameter in self.learner.named_parameters(name):
                state = {
                    key.rpartition(":")[2]: value
                    for key, value in stored.items()
                    if key.rpartition(":")[0] == parameter_name
                }
                if state:
                    optimizer.state[parameter] = state


def _annealed(rounds: int, round: int) -> float:
    """The share of the learning rate that is left in a round."""
    return max(0.0, 1.0 - (round - 1) / rounds) if rounds else 1.0


def _empty_figures(plan: StepPlan, role: str, policy: str) -> Row:
    return {
        "step": plan.number,
        "epoch": plan.epoch,
        "role": role,
        "policy": policy,
        "rows": 0,
        "tokens": 0,
        "loss": 0.0,
        "ratio_mean": 0.0,
        "clipped_share": 0.0,
    }


def _closed_figures(row: Row, norm: float, rate: float) -> Row:
    """Sums over tokens become means."""
    return {
        **row,
        "ratio_mean": row["ratio_mean"] / row["tokens"] if row["tokens"] else None,
        "clipped_share": row["clipped_share"] / row["tokens"] if row["tokens"] else None,
        "gradient_norm": norm,
        "learning_rate": rate,
    }
