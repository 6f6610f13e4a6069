"""The clipped policy gradient (PPO, arXiv 1707.06347, equation 7; C3, arXiv 2603.06859, section 3).

    L = - min( r A, clip(r, 1 - eps, 1 + eps) A ),    r = pi_theta / pi_b
    dual clip, where A < 0 (arXiv 1912.09729, equation 5):    L = - max( min( r A, clip(r) A ), c A ),    c > 1

Deleted from PPO: the value loss, the entropy bonus and the advantage normalisation. A is C3's leave-one-out advantage.
The dual clip bounds what one bad message can push when it has become far likelier: without it, -r A has no bound.
"""

from __future__ import annotations

from typing import Literal

import torch

from stages.losses.protocol import PolicyLoss


def clipped_policy_gradient(
    policy_logprob_T: torch.Tensor,
    old_logprob_T: torch.Tensor,
    advantage: float,
    *,
    clip: float,
    ratio: Literal["token", "sequence"] = "token",
    dual_clip: float | None = None,
) -> PolicyLoss:
    """Return the loss of one message with one advantage.

    `policy_logprob_T` [T]: log-probs under the weights being trained; `old_logprob_T` [T]: under the weights before the
    first step (a constant). "token": one ratio per token; "sequence": one per message, the paper's formula. `dual_clip`:
    c above, or None for a single clip.
    """
    log_ratio_T = policy_logprob_T - old_logprob_T
    if ratio == "sequence":
        log_ratio_T = log_ratio_T.sum().expand_as(log_ratio_T)
    ratio_T = log_ratio_T.exp()
    free_T = ratio_T * advantage
    bounded_T = ratio_T.clamp(1.0 - clip, 1.0 + clip) * advantage
    gain_T, clipped_T = torch.minimum(free_T, bounded_T), bounded_T < free_T
    if dual_clip is not None and advantage < 0:
        floor = dual_clip * advantage
        clipped_T = clipped_T | (gain_T < floor)
        gain_T = gain_T.clamp(min=floor)
    return PolicyLoss(-gain_T, ratio_T, clipped_T)
