"""Log-probs and entropies of sampled tokens from logits, without a second copy of the logits.

    logprob_n = l_n[a_n] - logsumexp(l_n)        H_k = - sum_v p_kv log p_kv        l = logits / temperature

Autograd would keep three float32 arrays of places x vocabulary; here the logits stay as the model made them (bfloat16, say)
and float32 exists for a few places at a time, forward and back. Several tokens may be predicted from one place (siblings
share the place before their first token).

Axes: N tokens, K places, V vocabulary, C places of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_CHUNK = 64
"""Places held in float32 at once: 12 MB for a vocabulary of 49,000."""
_CHUNKS_OF_A_GPU = 4
"""A GPU takes so many of them at once: its kernels would be too short otherwise."""


class TokenLogprobs(torch.autograd.Function):
    """(log-probs [N], entropies [N] in nats) of tokens `token_N` at places `where_N`; both differentiable, float32."""

    @staticmethod
    def forward(
        ctx: Any, logits_KV: torch.Tensor, where_N: torch.Tensor, token_N: torch.Tensor, temperature_K: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the formulas above."""
        normaliser_K = logits_KV.new_empty(len(logits_KV), dtype=torch.float32)
        entropy_K = torch.empty_like(normaliser_K)
        for chunk, scaled_CV in _chunks(logits_KV, temperature_K):
            normaliser_K[chunk] = scaled_CV.logsumexp(-1)
            log_share_CV = scaled_CV.sub_(normaliser_K[chunk, None])
            entropy_K[chunk] = -log_share_CV.exp().mul_(log_share_CV).sum(-1)
        at_N = logits_KV[where_N, token_N].float() / temperature_K[where_N]
        ctx.save_for_backward(logits_KV, where_N, token_N, temperature_K, normaliser_K, entropy_K)
        return at_N - normaliser_K[where_N], entropy_K[where_N]

    @staticmethod
    def backward(
        ctx: Any, logprob_gradient_N: torch.Tensor, entropy_gradient_N: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient: d logprob / d l_v = [v = a] - p_v;  d H / d l_v = - p_v (log p_v + H)."""
        logits_KV, where_N, token_N, temperature_K, normaliser_K, entropy_K = ctx.saved_tensors
        of_logprob_K = torch.zeros_like(normaliser_K).index_add_(0, where_N, logprob_gradient_N)
        of_entropy_K = torch.zeros_like(normaliser_K).index_add_(0, where_N, entropy_gradient_N)
        with_entropy = bool(of_entropy_K.any())
        gradient_KV = torch.empty_like(logits_KV)
        for chunk, scaled_CV in _chunks(logits_KV, temperature_K):
            log_share_CV = scaled_CV.sub_(normaliser_K[chunk, None])
            slope_CV = -of_logprob_K[chunk, None]
            if with_entropy:
                slope_CV = slope_CV - of_entropy_K[chunk, None] * (log_share_CV + entropy_K[chunk, None])
            gradient_CV = log_share_CV.exp().mul_(slope_CV)
            here = (where_N >= chunk.start) & (where_N < chunk.stop)
            spots = (where_N[here] - chunk.start, token_N[here])
            gradient_CV.index_put_(spots, logprob_gradient_N[here], accumulate=True)
            gradient_KV[chunk] = gradient_CV.div_(temperature_K[chunk, None])
        return gradient_KV, None, None, None


def _chunks(logits_KV: torch.Tensor, temperature_K: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield chunks of places, with their logits over temperature [C, V] in float32, which may be written to."""
    size = _CHUNK * (_CHUNKS_OF_A_GPU if logits_KV.is_cuda else 1)
    for first in range(0, len(logits_KV), size):
        chunk = slice(first, min(first + size, len(logits_KV)))
        yield chunk, logits_KV[chunk].float() / temperature_K[chunk, None]
