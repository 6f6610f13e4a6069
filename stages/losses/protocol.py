"""What a policy loss gives for one message. Axis: T its tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch


class PolicyLoss(NamedTuple):
    """Per token of one message."""

    loss_T: torch.Tensor
    """To be minimised; differentiable in the policy's log-probs."""
    ratio_T: torch.Tensor
    """pi_theta / pi_b, before clipping. With the sequence ratio the same for every token."""
    clipped_T: torch.Tensor
    """Where the clip removed the gradient."""
