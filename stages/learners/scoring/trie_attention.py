"""Attention over a token trie: only the products that some query sees, on a CPU.

    o_q = sum_k p_qk v_k        p_qk = exp( s q . k - z_q )  for k an ancestor of q, or q itself; else 0

A trie of T nodes has T x T pairs of which few are ancestors: branches are blind to each other. The nodes are cut into
blocks of queries, and a block meets only the keys that one of its queries sees. Forward, a block is torch's own fused
kernel. Back, that kernel takes ten times as long as forward, so the formulas of FlashAttention (arXiv 2205.14135, appendix
B.2) are written out as products of matrices: p again from the stored normaliser z, its scores in float32 whatever the
dtype (rounded to bfloat16, a score of 30 would be off by a tenth).

Axes: G key heads, J query heads to each, T nodes, Q queries of a block, K keys of a block, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TRIE_ATTENTION = "c3_trie"
_BLOCK = 128
"""Queries of a block. Smaller blocks meet fewer keys in vain and cost more calls."""


_FAINT = -60.0
"""Log-weights below this are taken for it: far below any rounding, and exp of less is tens of times slower."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries `first` to `end`, the nodes they see, and which of those each one sees."""

    first: int
    end: int
    key_K: torch.Tensor | slice
    """Ascending; a slice where they lie side by side, which needs no copy."""
    sees_QK: torch.Tensor
    """1 where the query sees the key, 0 where not; float32."""
    mask_QK: torch.Tensor
    """The same as it is added to scores: 0 and minus infinity. Made once, for every layer takes it."""


def blocks(mask_TT: npt.NDArray[np.bool_]) -> list[Block]:
    """Return the blocks of a trie's ancestor mask [query, key]."""
    found = []
    for first in range(0, len(mask_TT), _BLOCK):
        end = min(first + _BLOCK, len(mask_TT))
        key_K = np.flatnonzero(mask_TT[first:end].any(axis=0))
        sees_QK = torch.from_numpy(mask_TT[first:end][:, key_K].astype(np.float32))
        beside = key_K[-1] - key_K[0] + 1 == len(key_K)
        keys = slice(int(key_K[0]), int(key_K[-1]) + 1) if beside else torch.from_numpy(key_K)
        found.append(Block(first, end, keys, sees_QK, sees_QK.log()))
    return found


class TrieAttention(torch.autograd.Function):
    """Attention block by block. Keys and values of shared heads are read where they lie."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: list[Block], scale: float
    ) -> torch.Tensor:
        """Return [1, T, heads, D] from [1, heads, T, D]; key and value [1, G, T, D]."""
        groups, nodes = key.shape[1:3]
        query_GJTD = query[0].unflatten(0, (groups, -1))
        shared = query_GJTD.shape[1]
        output_TGJD = value.new_empty(nodes, groups, shared, value.shape[-1])
        normalisers = []
        for block in plan:
            heard, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query_GJTD[:, :, block.first : block.end].flatten(1, 2)[None],
                key[:, :, block.key_K],
                value[:, :, block.key_K],
                attn_mask=block.mask_QK.to(query.dtype).repeat(shared, 1)[None, None],
                scale=scale,
            )
            output_TGJD[block.first : block.end] = heard[0].unflatten(1, (shared, -1)).permute(2, 0, 1, 3)
            normalisers.append(normaliser[0])
        ctx.save_for_backward(query_GJTD, key[0], value[0], output_TGJD, *normalisers)
        ctx.plan, ctx.scale = plan, scale
        return output_TGJD.flatten(1, 2)[None]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return gradients of query, key and value; sums over blocks are kept in float32."""
        query_GJTD, key_GTD, value_GTD, output_TGJD, *normalisers = ctx.saved_tensors
        dtype = key_GTD.dtype
        gradient_TGJD = gradient[0].view(output_TGJD.shape)
        # what a query's own output already holds of its gradient: sum over D of dO O
        held_GJT = (gradient_TGJD * output_TGJD).sum(-1, dtype=torch.float32).permute(1, 2, 0)
        gradient_GJTD = gradient_TGJD.permute(1, 2, 0, 3)
        query_gradient = torch.empty_like(query_GJTD)
        key_gradient, value_gradient = (
            torch.zeros_like(states, dtype=torch.float32) for states in (key_GTD, value_GTD)
        )
        for block, normaliser in zip(ctx.plan, normalisers, strict=True):
            span = slice(block.first, block.end)
            asked, wanted = (states[:, :, span].flatten(1, 2) for states in (query_GJTD, gradient_GJTD))
            known, said = key_GTD[:, block.key_K], value_GTD[:, block.key_K]
            weight = torch.bmm(asked.float() * ctx.scale, known.float().transpose(1, 2)).sub_(normaliser[..., None])
            weight.clamp_(_FAINT, 0.0).exp_().unflatten(1, (-1, len(block.sees_QK))).mul_(block.sees_QK)
            of_weight = (
                torch.bmm(wanted, said.transpose(1, 2)).float().sub_(held_GJT[:, :, span].flatten(1, 2)[..., None])
            )
            score_gradient = of_weight.mul_(weight).mul_(ctx.scale).to(dtype)
            query_gradient[:, :, span] = torch.bmm(score_gradient, known).unflatten(1, (-1, len(block.sees_QK)))
            _add(key_gradient, block.key_K, torch.bmm(score_gradient.transpose(1, 2), asked))
            _add(value_gradient, block.key_K, torch.bmm(weight.to(dtype).transpose(1, 2), wanted))
        return (
            query_gradient.flatten(0, 1)[None],
            key_gradient.to(dtype)[None],
            value_gradient.to(dtype)[None],
            None,
            None,
        )


def _add(total_GTD: torch.Tensor, key_K: torch.Tensor | slice, part_GKD: torch.Tensor) -> None:
    if isinstance(key_K, slice):
        total_GTD[:, key_K] += part_GKD
    else:
        total_GTD.index_add_(1, key_K, part_GKD.float())


def trie_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trie_plan: list[Block] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend block by block where there is a plan and attention is the plain kind; else as transformers' sdpa.

    `trie_plan`: the keyword of that name which the model was called with.
    """
    odd = any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if trie_plan is None or odd or options.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scale = options.get("scaling")
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast positions are applied in float32
    return TrieAttention.apply(query, key, value, trie_plan, query.shape[-1] ** -0.5 if scale is None else scale), None


AttentionInterface.register(TRIE_ATTENTION, trie_attention)
AttentionMaskInterface.register(TRIE_ATTENTION, sdpa_mask)
