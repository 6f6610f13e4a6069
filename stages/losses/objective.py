"""The objective of one message: the chosen policy loss, with the terms that the configuration adds.

    L_t = w_t l_t  +  kl.coefficient KL_t  -  entropy_coefficient H_t

w is the truncated importance weight (1 without one). KL and entropy are measured whether or not they are in the loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from configs.training import UpdateConfig
from stages.losses.clipped_policy_gradient import clipped_policy_gradient
from stages.losses.kl_to_reference import kl_to_reference
from stages.losses.protocol import PolicyLoss
from stages.losses.reinforce import reinforce
from stages.losses.truncated_importance import truncated_importance


class LossReferences(NamedTuple):
    """What a message's present log-probs are compared with; constants [T]."""

    old_logprob_T: torch.Tensor
    """The trainer's own before the first step: the denominator of the ratio."""
    reference_logprob_T: torch.Tensor
    """Of the model before any training."""
    behaviour_logprob_T: torch.Tensor | None
    """The engine's when it sampled. None: imported without."""


class Objective(NamedTuple):
    """Per token of one message; all but the first are figures."""

    loss_T: torch.Tensor
    ratio_T: torch.Tensor
    clipped_T: torch.Tensor
    kl_T: torch.Tensor
    entropy_T: torch.Tensor


def objective(
    config: UpdateConfig,
    policy_logprob_T: torch.Tensor,
    entropy_T: torch.Tensor,
    against: LossReferences,
    advantage: float,
) -> Objective:
    """Return the formula above for one message with one advantage."""
    policy = _policy_loss(config, policy_logprob_T, against.old_logprob_T, advantage)
    loss_T = policy.loss_T
    if config.truncated_importance is not None:
        assert against.behaviour_logprob_T is not None, "rows without behaviour log-probs are skipped"
        cap = config.truncated_importance
        loss_T = loss_T * truncated_importance(against.old_logprob_T, against.behaviour_logprob_T, cap)
    kl_T = kl_to_reference(policy_logprob_T, against.reference_logprob_T, config.kl.estimator)
    if config.kl.coefficient:
        loss_T = loss_T + config.kl.coefficient * kl_T
    if config.entropy_coefficient:
        loss_T = loss_T - config.entropy_coefficient * entropy_T
    return Objective(loss_T, policy.ratio_T.detach(), policy.clipped_T, kl_T.detach(), entropy_T.detach())


def _policy_loss(
    config: UpdateConfig, policy_logprob_T: torch.Tensor, old_logprob_T: torch.Tensor, advantage: float
) -> PolicyLoss:
    if config.loss == "reinforce":
        return reinforce(policy_logprob_T, old_logprob_T, advantage)
    return clipped_policy_gradient(
        policy_logprob_T, old_logprob_T, advantage, clip=config.clip, ratio=config.ratio, dual_clip=config.dual_clip
    )
