"""Packing: rows as one token trie, so that whatever rows begin with in common is computed once.

A node is a token at the end of a path; its position is its depth, and it attends to its ancestors and itself. Since
attention is causal, a node's hidden state is the same as in every row that runs through it: log-probs and gradients
equal those of one sequence at a time. A row's last token has no node of its own, because nothing is predicted from it.

Pure functions over token ids, without torch. Axes: T nodes of a trie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.errors import UpdateError
from stages.learners.protocol import TrainRow

_Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows laid out for one forward pass."""

    token_T: _Integers
    position_T: _Integers
    """Depth: the place of the token in every row that runs through the node."""
    mask_TT: npt.NDArray[np.bool_]
    """[query, key]: whether the key is the query itself or one of its ancestors."""
    predicting: tuple[_Integers, ...]
    """Per row [its tokens]: the node whose hidden state predicts each of them."""


def pack(rows: Sequence[TrainRow]) -> PackedRows:
    """Return the trie of these rows. Parents come before children. UpdateError when a row has no context."""
    trie = _Trie()
    paths = [trie.add(_seen(row)) for row in rows]
    mask_TT = np.zeros((len(trie.token), len(trie.token)), dtype=np.bool_)
    for node, parent in enumerate(trie.parent):
        if parent >= 0:
            mask_TT[node] = mask_TT[parent]
        mask_TT[node, node] = True
    predicting = tuple(
        np.array(path[len(path) - len(row.token_ids) :], dtype=np.int64) for row, path in zip(rows, paths, strict=True)
    )
    return PackedRows(np.array(trie.token, np.int64), np.array(trie.depth, np.int64), mask_TT, predicting)


def packed_batches(rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
    """Return micro-batches whose tries hold at most `max_tokens` nodes.

    Contexts go in the order of their token ids, so that neighbours share the most; the rows of one context stay
    together unless they alone are too many. A row that is longer than `max_tokens` is a batch of its own.
    """
    batches: list[list[TrainRow]] = []
    trie, batch = _Trie(), list[TrainRow]()
    for group in _by_context(rows):
        for piece in _pieces(group, max_tokens):
            if batch and trie.size_with([_seen(row) for row in piece]) > max_tokens:
                batches.append(batch)
                trie, batch = _Trie(), []
            for row in piece:
                trie.add(_seen(row))
            batch = batch + piece
    return [*batches, batch] if batch else batches


def padded_batches(rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
    """Return micro-batches of which rows times the longest row is at most `max_tokens`; a longer row is a batch of its own."""
    batches: list[list[TrainRow]] = []
    longest = 0
    for row in (row for group in _by_context(rows) for row in group):
        length = len(_seen(row))
        if not batches or (len(batches[-1]) + 1) * max(longest, length) > max_tokens:
            batches.append([])
            longest = 0
        batches[-1].append(row)
        longest = max(longest, length)
    return batches


def _by_context(rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
    groups: dict[tuple[int, ...], list[TrainRow]] = {}
    for row in rows:
        groups.setdefault(row.context_ids, []).append(row)
    return [groups[context] for context in sorted(groups)]


def _pieces(group: list[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
    """Return the group itself, or its pieces where its own trie would pass `max_tokens`."""
    pieces: list[list[TrainRow]] = []
    trie = _Trie()
    for row in group:
        if not pieces or trie.size_with([_seen(row)]) > max_tokens:
            pieces.append([])
            trie = _Trie()
        pieces[-1].append(row)
        trie.add(_seen(row))
    return pieces


def _seen(row: TrainRow) -> tuple[int, ...]:
    """Return what the model is fed: the context and all sampled tokens but the last."""
    if not row.context_ids:
        raise UpdateError(f"decision {row.decision_id}: empty context; its first token is predicted from nothing")
    return row.context_ids + row.token_ids[:-1]


class _Trie:
    """Nodes in the order in which they were first needed; parent -1 is the root."""

    def __init__(self) -> None:
        self.token: list[int] = []
        self.parent: list[int] = []
        self.depth: list[int] = []
        self._child: dict[tuple[int, int], int] = {}

    def add(self, tokens: Sequence[int]) -> list[int]:
        """Return the path of nodes of a sequence, made where they are missing."""
        path: list[int] = []
        node = -1
        for depth, token in enumerate(tokens):
            child = self._child.get((node, token))
            if child is None:
                child = self._child[node, token] = len(self.token)
                self.token.append(token)
                self.parent.append(node)
                self.depth.append(depth)
            node = child
            path.append(node)
        return path

    def size_with(self, sequences: Sequence[Sequence[int]]) -> int:
        """Return how many nodes there would be with these sequences added."""
        new: dict[tuple[int, int], int] = {}
        for tokens in sequences:
            node = -1
            for token in tokens:
                known = self._child.get((node, token), new.get((node, token)))
                node = new.setdefault((node, token), len(self.token) + len(new)) if known is None else known
        return len(self.token) + len(new)
