"""Attention over a token trie: only the products that some query sees, on a CPU.

    o_q = sum_k softmax_k( s q . k  for k an ancestor of q, or q itself ) v_k

A trie of T nodes has T x T pairs of which few are ancestors: branches are blind to each other. The nodes are cut into
blocks of queries, and a block meets only the keys that one of its queries sees. The usual kernel computes all pairs, and its
backward pass on a CPU takes ten times its forward.

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


@dataclass(frozen=True, slots=True)
class Block:
    """Queries `first` to `end`, the nodes they see, and which of those each one sees."""

    first: int
    end: int
    key_K: torch.Tensor | slice
    """Ascending; a slice where they lie side by side, which needs no copy."""
    blind_QK: torch.Tensor
    """0 where the query sees the key, -inf where not; in the model's dtype."""


def blocks(mask_TT: npt.NDArray[np.bool_], dtype: torch.dtype) -> list[Block]:
    """The blocks of a trie's ancestor mask [query, key]."""
    found = []
    for first in range(0, len(mask_TT), _BLOCK):
        end = min(first + _BLOCK, len(mask_TT))
        key_K = np.flatnonzero(mask_TT[first:end].any(axis=0))
        sees_QK = torch.from_numpy(mask_TT[first:end][:, key_K])
        blind_QK = torch.zeros(sees_QK.shape, dtype=dtype).masked_fill_(~sees_QK, -torch.inf)
        beside = key_K[-1] - key_K[0] + 1 == len(key_K)
        keys = slice(int(key_K[0]), int(key_K[-1]) + 1) if beside else torch.from_numpy(key_K)
        found.append(Block(first, end, keys, blind_QK))
    return found


class TrieAttention(torch.autograd.Function):
    """Attention block by block. Keys and values of shared heads are read where they lie."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: list[Block], scale: float
    ) -> torch.Tensor:
        """[1, T, heads, D] from [1, heads, T, D]; key and value [1, G, T, D]."""
        key_GTD, value_GTD = key[0], value[0]
        groups, nodes, width = key_GTD.shape
        query_GJTD = (scale * query[0]).view(groups, -1, nodes, width)
        output_TGJD = value.new_empty(nodes, groups, query_GJTD.shape[1], value.shape[-1])
        weights = []
        for block in plan:
            asked = query_GJTD[:, :, block.first : block.end].flatten(1, 2)
            weight = asked @ key_GTD[:, block.key_K].transpose(1, 2)
            weight.view(groups, -1, *block.blind_QK.shape).add_(block.blind_QK)
            weight = weight.softmax(-1)
            heard = (weight @ value_GTD[:, block.key_K]).view(groups, -1, len(block.blind_QK), value.shape[-1])
            output_TGJD[block.first : block.end] = heard.permute(2, 0, 1, 3)
            weights.append(weight)
        ctx.save_for_backward(query_GJTD, key_GTD, value_GTD, *weights)
        ctx.plan, ctx.scale = plan, scale
        return output_TGJD.flatten(1, 2)[None]

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value; sums over blocks are kept in float32."""
        query_GJTD, key_GTD, value_GTD, *weights = ctx.saved_tensors
        groups = len(key_GTD)
        gradient_GJTD = gradient[0].unflatten(1, (groups, -1)).permute(1, 2, 0, 3)
        query_gradient = torch.empty_like(query_GJTD)
        key_gradient, value_gradient = (
            torch.zeros_like(states, dtype=torch.float32) for states in (key_GTD, value_GTD)
        )
        for block, weight in zip(ctx.plan, weights, strict=True):
            asked = query_GJTD[:, :, block.first : block.end].flatten(1, 2)
            wanted = gradient_GJTD[:, :, block.first : block.end].flatten(1, 2)
            known, said = key_GTD[:, block.key_K], value_GTD[:, block.key_K]
            score_gradient = torch._softmax_backward_data(wanted @ said.transpose(1, 2), weight, -1, weight.dtype)
            query_gradient[:, :, block.first : block.end] = (score_gradient @ known).view(
                groups, -1, len(block.blind_QK), known.shape[-1]
            )
            _add(key_gradient, block.key_K, score_gradient.transpose(1, 2) @ asked)
            _add(value_gradient, block.key_K, weight.transpose(1, 2) @ wanted)
        return (
            query_gradient.mul_(ctx.scale).flatten(0, 1)[None],
            key_gradient.to(key_GTD.dtype)[None],
            value_gradient.to(value_GTD.dtype)[None],
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
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Block by block where the mask carries a plan and attention is the plain kind; else transformers' sdpa."""
    plan = getattr(attention_mask, "plan", None)
    odd = any(options.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    if plan is None or odd or options.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scale = options.get("scaling")
    return TrieAttention.apply(query, key, value, plan, query.shape[-1] ** -0.5 if scale is None else scale), None


AttentionInterface.register(TRIE_ATTENTION, trie_attention)
AttentionMaskInterface.register(TRIE_ATTENTION, sdpa_mask)
