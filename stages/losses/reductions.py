"""Reductions: how token losses become one number.

    role_token_mean   mean over the trained tokens of a role, then summed over roles (default)
    token_mean        mean over all trained tokens
    sequence_mean     mean over messages of the mean over their tokens
    constant          mean over messages of the sum over their tokens, divided by a fixed number of tokens: a long message
                      weighs more than a short one, and no message's weight depends on another's length
                      (Dr. GRPO, arXiv 2503.20783)

Each is a weight per message that multiplies the sum of its token losses, so micro-batches can be added up. Rows that are
not trained (a NULL advantage) are not given here and so leave every denominator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

Reduction = Literal["role_token_mean", "token_mean", "sequence_mean", "constant"]


def token_weights(
    messages: Sequence[tuple[str, int]], reduction: Reduction, constant_tokens: int | None = None
) -> list[float]:
    """Return one weight per message (role, number of tokens). `constant_tokens`: the fixed number that "constant" needs."""
    if reduction == "token_mean":
        total = sum(tokens for _, tokens in messages)
        return [1.0 / total for _ in messages]
    if reduction == "sequence_mean":
        return [1.0 / (len(messages) * tokens) for _, tokens in messages]
    if reduction == "constant":
        assert constant_tokens is not None, "the configuration asks for it"
        return [1.0 / (len(messages) * constant_tokens) for _ in messages]
    of_role: Counter[str] = Counter()
    for role, tokens in messages:
        of_role[role] += tokens
    return [1.0 / of_role[role] for role, _ in messages]
