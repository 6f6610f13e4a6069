"""How requests become batches: equal prompts together, near lengths together, at most so many tokens held at once.

Pure functions over token ids; a batch depends on the requests of one call and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.engines.protocol import Request, SamplingParameters

Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One message to make: which request and which of its seeds it answers."""

    request: int
    place: int
    seed: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts prefilled together, and the rows that continue each."""

    prompts: tuple[Prompt, ...]
    rows: tuple[tuple[Row, ...], ...]
    """Aligned with `prompts`."""


def groups(requests: Sequence[Request]) -> dict[tuple[str, SamplingParameters], list[int]]:
    """Return indices of the requests that can share a batch: one policy, one way of sampling. In order of first appearance."""
    found: dict[tuple[str, SamplingParameters], list[int]] = {}
    for index, request in enumerate(requests):
        if request.seeds:
            found.setdefault((request.policy, request.sampling), []).append(index)
    return found


def common_prefix(prompts: Sequence[Prompt]) -> int:
    """Return how many tokens all prompts begin with. Each keeps one of its own: its last token makes the first logits."""
    first, last = min(prompts), max(prompts)
    longest = min(len(prompt) for prompt in prompts) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


def cut(requests: Sequence[Request], indices: Sequence[int], max_new_tokens: int, max_tokens: int) -> list[Batch]:
    """Return batches of at most `max_tokens` tokens, counting every row as long as the longest plus its new tokens.

    Prompts go from short to long (ties by order of asking). A row longer than `max_tokens` is a batch of its own.
    """
    by_prompt: dict[Prompt, list[Row]] = {}
    for index in indices:
        request = requests[index]
        rows = by_prompt.setdefault(request.prompt_ids, [])
        rows += [Row(index, place, seed) for place, seed in enumerate(request.seeds)]
    batches: list[Batch] = []
    current: dict[Prompt, list[Row]] = {}
    count = 0
    for prompt in sorted(by_prompt, key=len):  # a stable sort
        room = max(1, max_tokens // (len(prompt) + max_new_tokens))
        for row in by_prompt[prompt]:
            if count >= room:
                batches.append(_batch(current))
                current, count = {}, 0
            current.setdefault(prompt, []).append(row)
            count += 1
    return [*batches, _batch(current)]


def _batch(rows: Mapping[Prompt, Sequence[Row]]) -> Batch:
    return Batch(tuple(rows), tuple(tuple(group) for group in rows.values()))
