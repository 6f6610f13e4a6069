"""The policy gradient that each estimator's advantages would make of the same lessons, at one policy version.

    g_e = - grad  sum_rows  w_row  sum_t l_t(A_e)          l: the configured policy loss, w: the configured reduction

At the weights that sampled every ratio is 1 and nothing is clipped, so this is the first step of an update without its KL and
entropy terms. A row that an estimator leaves undefined leaves that estimator's denominators, as in the update.

Axes: E estimators, P parameters of a policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from configs.schema import Config
from configs.training import UpdateConfig
from stages.learners.protocol import Learner, Scored
from stages.losses.objective import LossReferences, objective
from stages.losses.reductions import token_weights
from stages.runtime.determinism import deterministic
from stages.training.examples import TrainingExample

Credit = Mapping[str, float | None]
"""Decision -> advantage; NULL: undefined."""


@dataclass(frozen=True)
class Geometry:
    """Inner products of the estimators' gradients, of one role's lessons or of all."""

    estimators: tuple[str, ...]
    product_EE: torch.Tensor
    """float64."""

    def length(self, estimator: str) -> float:
        """Return the length of an estimator's gradient."""
        place = self.estimators.index(estimator)
        return float(self.product_EE[place, place].clamp(min=0).sqrt())

    def cosine(self, estimator: str, other: str) -> float | None:
        """Return the cosine of the angle between two gradients; None where one of them is 0."""
        lengths = self.length(estimator) * self.length(other)
        output = self.product_EE[self.estimators.index(estimator), self.estimators.index(other)]
        return float(output) / lengths if lengths else None


def gradient_geometry(
    config: Config, learner: Learner, examples: Sequence[TrainingExample], credit: Mapping[str, Credit]
) -> tuple[dict[str, Geometry], Geometry]:
    """Return the gradients' geometry by role, and of the whole team.

    `learner`: loaded and prepared for these examples; `credit`: by estimator.
    """
    plain = config.update.model_copy(
        update={"kl": config.update.kl.model_copy(update={"coefficient": 0.0}), "entropy_coefficient": 0.0}
    )
    names = tuple(credit)
    weights = {name: _weights(plain, examples, credit[name]) for name in names}
    by_role: dict[str, Geometry] = {}
    team = torch.zeros(len(names), len(names), dtype=torch.float64)
    for policy in dict.fromkeys(example.row.policy for example in examples):
        parameters = [parameter for _, parameter in learner.named_parameters(policy)]
        total_EP: torch.Tensor | None = None
        for role in dict.fromkeys(example.role for example in examples if example.row.policy == policy):
            mine = [example for example in examples if (example.role, example.row.policy) == (role, policy)]
            gradient_EP = _gradients(plain, learner, parameters, mine, credit, weights)
            by_role[role] = Geometry(names, _products(gradient_EP))
            total_EP = gradient_EP if total_EP is None else total_EP + gradient_EP
        if total_EP is not None:
            team += _products(total_EP)
    return by_role, Geometry(names, team)


def _weights(config: UpdateConfig, examples: Sequence[TrainingExample], credit: Credit) -> dict[str, float]:
    """Return decision -> its weight, of those that the estimator defines."""
    defined = [example for example in examples if credit.get(example.row.decision_id) is not None]
    sizes = [(example.role, len(example.row.token_ids)) for example in defined]
    found = token_weights(sizes, config.reduction, config.constant_tokens)
    return {example.row.decision_id: weight for example, weight in zip(defined, found, strict=True)}


def _gradients(
    config: UpdateConfig,
    learner: Learner,
    parameters: Sequence[torch.nn.Parameter],
    examples: Sequence[TrainingExample],
    credit: Mapping[str, Credit],
    weights: Mapping[str, Mapping[str, float]],
) -> torch.Tensor:
    """[E, P] float32 on the CPU: one forward pass a micro-batch, one backward pass for each estimator."""
    by_id = {example.row.decision_id: example for example in examples}
    total_EP = torch.zeros(len(credit), sum(parameter.numel() for parameter in parameters))
    for batch in learner.batches([example.row for example in examples], config.max_tokens):
        with deterministic():
            scored = list(zip([by_id[row.decision_id] for row in batch], learner.score(batch), strict=True))
            for place, name in enumerate(credit):
                losses = [
                    weights[name][example.row.decision_id] * _loss(config, example, found, value)
                    for example, found in scored
                    if (value := credit[name].get(example.row.decision_id))
                ]
                if losses:
                    torch.stack(losses).sum().backward(retain_graph=True)
                    total_EP[place] -= _taken(parameters)
    return total_EP


def _loss(config: UpdateConfig, example: TrainingExample, scored: Scored, advantage: float) -> torch.Tensor:
    """Return the message's policy loss where the weights are those that the ratio is measured against."""
    now_T = scored.logprob_T.detach()
    behaviour = example.behaviour_logprobs
    sampled_T = None if behaviour is None else torch.tensor(behaviour, dtype=now_T.dtype, device=now_T.device)
    against = LossReferences(now_T, now_T, sampled_T)
    return objective(config, scored.logprob_T, scored.entropy_T, against, advantage).loss_T.sum()


def _taken(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Return what a backward pass left in the parameters [P], which are cleared."""
    pieces = []
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        pieces.append(gradient.detach().float().cpu().reshape(-1))
        parameter.grad = None
    return torch.cat(pieces) if pieces else torch.zeros(0)


def _products(gradient_EP: torch.Tensor) -> torch.Tensor:
    """[E, E] in float64, row by row, so that no second copy of all of them is made."""
    product_EE = torch.zeros(len(gradient_EP), len(gradient_EP), dtype=torch.float64)
    for i in range(len(gradient_EP)):
        left = gradient_EP[i].double()
        for j in range(i + 1):
            product_EE[i, j] = product_EE[j, i] = left @ gradient_EP[j].double()
    return product_EE
