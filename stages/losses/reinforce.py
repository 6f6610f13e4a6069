"""REINFORCE (Williams 1992, Machine Learning 8:229, equation 11) with C3's advantage in place of the return.

    L = - A log pi_theta(a)

Its gradient is the clipped policy gradient's at ratio 1, and stays so: nothing corrects for steps taken since the message
was sampled, so it is meant for one step per message (update.epochs = 1, update.minibatches = 1).
"""

from __future__ import annotations

import torch

from stages.losses.protocol import PolicyLoss


def reinforce(policy_logprob_T: torch.Tensor, old_logprob_T: torch.Tensor, advantage: float) -> PolicyLoss:
    """Return the loss of one message with one advantage. `old_logprob_T` [T] serves the measured ratio only."""
    ratio_T = (policy_logprob_T.detach() - old_logprob_T).exp()
    return PolicyLoss(-advantage * policy_logprob_T, ratio_T, torch.zeros_like(ratio_T, dtype=torch.bool))
