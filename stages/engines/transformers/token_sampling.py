"""Drawing tokens from logits: temperature, top-k, top-p, and one uniform per token.

Axes: B rows (messages in the making), V vocabulary, K what truncation keeps at most, T tokens of a message.

    p = softmax(logits / temperature), truncated and renormalised;  token = the first whose cumulative p exceeds u
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from stages.engines.protocol import SamplingParameters


def uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Return [count] numbers in [0, 1), a function of the seed alone.

    Philox takes 64-bit keys whole, where torch's CPU generator would keep 32 bits of the seed and two of 65,000
    messages would share their randomness. The raw stream is fixed by the algorithm.
    """
    raw = np.random.Philox(key=seed % 2**64).random_raw(count)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def draw(
    logits_BV: torch.Tensor, uniform_B: torch.Tensor, sampling: SamplingParameters
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [B] and their natural log-probs [B] under the distribution drawn from; each row for itself.

    At temperature 0 the likeliest token (the first of equals), with its log-prob under the untempered softmax.
    """
    logits_BV = logits_BV.float()
    if sampling.temperature == 0:
        token_B = logits_BV.argmax(-1)
        return token_B, _at(logits_BV, token_B) - logits_BV.logsumexp(-1)
    logits_BV = logits_BV / sampling.temperature
    if not sampling.top_k and sampling.top_p >= 1:
        return _inverse_cdf(logits_BV, uniform_B)
    kept_BK, token_BK = _truncated(logits_BV, sampling.top_p, sampling.top_k)
    place_B, logprob_B = _inverse_cdf(kept_BK, uniform_B)
    return _at(token_BK, place_B), logprob_B


def _truncated(logits_BV: torch.Tensor, top_p: float, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [B, K] from the likeliest down, -inf where truncated, and the tokens they belong to.

    First the `top_k` likeliest, then of those the smallest set that reaches `top_p`: the order of vLLM as well.
    """
    if top_k and top_k < logits_BV.shape[-1]:
        kept_BK, token_BK = logits_BV.topk(top_k, dim=-1, sorted=True)
    else:
        kept_BK, token_BK = logits_BV.sort(dim=-1, descending=True, stable=True)
    if top_p < 1:
        share_BK = kept_BK.softmax(-1)
        before_BK = share_BK.cumsum(-1, dtype=torch.float64) - share_BK
        before_BK[:, 0] = 0.0  # the likeliest is always kept, whatever the rounding
        kept_BK = kept_BK.masked_fill(before_BK >= top_p, -torch.inf)
    return kept_BK, token_BK


def _inverse_cdf(logits_BV: torch.Tensor, uniform_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return places [B] in the last axis, and the log-probs there. A place of probability 0 is never taken."""
    total_B = logits_BV.logsumexp(-1)
    # summed in double: in single precision the rare half of a 50,000-word vocabulary would drown in rounding
    cumulative_BV = (logits_BV - total_B[:, None]).exp().cumsum(-1, dtype=torch.float64)
    end_B = cumulative_BV[:, -1]
    below_B = torch.minimum(uniform_B * end_B, torch.nextafter(end_B, torch.zeros_like(end_B)))
    place_B = torch.searchsorted(cumulative_BV, below_B[:, None], right=True)[:, 0]
    return place_B, _at(logits_BV, place_B) - total_B


def _at(values_BV: torch.Tensor, place_B: torch.Tensor) -> torch.Tensor:
    return values_BV.gather(-1, place_B[:, None])[:, 0]
