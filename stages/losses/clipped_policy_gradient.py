"""The clipped policy gradient (PPO, arXiv 1707.06347, equation 7; C3, arXiv 2603.06859, section 3).

    L = - min( r A, clip(r, 1 - eps, 1 + eps) A ),    r = pi_theta / pi_b

Deleted from PPO: the value loss, the entropy bonus and the advantage normalisation. A is C3's leave-one-out advantage.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch


class ClippedLoss(NamedTuple):
    """Per token of one message."""

    loss_T: torch.Tensor
    """To be minimised; differentiable in the policy's log-probs."""
    ratio_T: torch.Tensor
    """pi_theta / pi_b, before clipping. With the sequence ratio the same for every token."""
    clipped_T: torch.Tensor
    """Where the clip removed the gradient."""


def clipped_policy_gradient(
    policy_logprob_T: torch.Tensor,
    old_logprob_T: torch.Tensor,
    advantage: float,
    *,
    clip: float,
    ratio: Literal["token", "sequence"] = "token",
) -> ClippedLoss:
    """The loss of one message with one advantage.

    `policy_logprob_T` [T]: log-probs under the weights being trained; `old_logprob_T` [T]: under the weights before the
    first step (a constant). "token": one ratio per token; "sequence": one per message, the paper's formula.
    """
    log_ratio_T = policy_logprob_T - old_logprob_T
    if ratio == "sequence":
        log_ratio_T = log_ratio_T.sum().expand_as(log_ratio_T)
    ratio_T = log_ratio_T.exp()
    free_T = ratio_T * advantage
    bounded_T = ratio_T.clamp(1.0 - clip, 1.0 + clip) * advantage
    return ClippedLoss(-torch.minimum(free_T, bounded_T), ratio_T, bounded_T < free_T)
