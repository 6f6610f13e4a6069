"""KL(pi_theta || pi_ref), estimated on the sampled tokens (Schulman, "Approximating KL divergence", 2020).

    k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d          d = log pi_theta - log pi_ref

All are 0 where the two agree; k2 and k3 are never negative. On tokens drawn from pi_theta, k1 and k3 are unbiased and k2
nearly so. As a loss term they differ (arXiv 2506.09477): the gradient of k2 is that of the KL, that of k3 is of the other
direction, KL(pi_ref || pi_theta), and that of k1 is zero on average: it pushes nowhere and adds noise.
"""

from __future__ import annotations

from typing import Literal

import torch

KlEstimator = Literal["k1", "k2", "k3"]


def kl_to_reference(
    policy_logprob_T: torch.Tensor, reference_logprob_T: torch.Tensor, estimator: KlEstimator
) -> torch.Tensor:
    """Return the KL to the reference per token [T], in nats. `reference_logprob_T` is a constant."""
    difference_T = policy_logprob_T - reference_logprob_T
    if estimator == "k1":
        return difference_T
    if estimator == "k2":
        return 0.5 * difference_T.square()
    return torch.expm1(-difference_T) + difference_T
