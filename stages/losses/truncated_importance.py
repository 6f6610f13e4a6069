"""Truncated importance sampling against the engine (Ionides 2008; Yao et al. 2025, "Your efficient RL framework secretly
brings you off-policy RL training").

    w = min( pi_b(a) / mu(a), C )        pi_b: the trainer's own before the first step; mu: the engine's when it sampled

The engine's arithmetic is not the trainer's (another dtype, other kernels, merged adapters), so its samples are slightly
off-policy from the start. Multiplying a token's loss by w corrects for it; C bounds the variance at the price of bias.
"""

from __future__ import annotations

import torch


def truncated_importance(old_logprob_T: torch.Tensor, behaviour_logprob_T: torch.Tensor, cap: float) -> torch.Tensor:
    """Return importance weights [T], constants: no gradient flows through them."""
    return (old_logprob_T - behaviour_logprob_T).exp().clamp(max=cap).detach()
