"""Reductions: how token losses become one number.

    role_token_mean   mean over the trained tokens of a role, then summed over roles (default)
    token_mean        mean over all trained tokens
    sequence_mean     mean over messages of the mean over their tokens

Each is a weight per message that multiplies the sum of its token losses, so micro-batches can be added up. Rows that are
not trained (a NULL advantage) are not given here and so leave every denominator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Reduction = Literal["role_token_mean", "token_mean", "sequence_mean"]


def token_weights(messages: Sequence[tuple[str, int]], reduction: Reduction) -> list[float]:
    """One weight per message (role, number of tokens)."""
    if reduction == "token_mean":
        total = sum(tokens for _, tokens in messages)
        return [1.0 / total for _ in messages]
    if reduction == "sequence_mean":
        return [1.0 / (len(messages) * tokens) for _, tokens in messages]
    of_role: Counter[str] = Counter()
    for role, tokens in messages:
        of_role[role] += tokens
    return [1.0 / of_role[role] for role, _ in messages]
