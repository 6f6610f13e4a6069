"""Attention that reads grouped keys and values without repeating them for each query head."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_ATTENTION = "c3_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Return sdpa; but for one new token, the query heads of a shared key head become its query positions: no copies."""
    groups = getattr(module, "num_key_value_groups", 1)
    by_head = attention_mask is not None and attention_mask.shape[1] != 1
    if groups == 1 or query.shape[2] != 1 or by_head or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    rows, heads, _, width = query.shape
    folded = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, heads // groups, groups, width),
        key,
        value,
        attn_mask=attention_mask,
        scale=options.get("scaling"),
    )
    return folded.reshape(rows, 1, heads, value.shape[-1]), None


AttentionInterface.register(GROUPED_ATTENTION, grouped_attention)
AttentionMaskInterface.register(GROUPED_ATTENTION, sdpa_mask)
