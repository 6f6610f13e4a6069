"""Ids and seeds: functions of what is requested, never of order or time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

from store.disk.hashing import canonical_json

DrawPath = tuple[int, ...]
"""Which draw was taken at each depth: the path of draws that leads to a decision, or to a state."""

_ID_CHARACTERS = 12
"""60 bits: among 16 million ids two are equal with probability 1e-4 (a check looks); DuckDB keeps 12 bytes inline."""


def short_id(*parts: Any) -> str:
    """Return a row's id: 12 lower-case base-32 characters of the hash of its parts."""
    raw = hashlib.sha256(canonical_json(parts).encode()).digest()
    return base64.b32encode(raw).decode().lower()[:_ID_CHARACTERS]


def context_id(role: str, codec_identity: str, token_ids: Sequence[int]) -> str:
    """Return the id of a context: what was seen, by which role, in which tokenizer's ids."""
    return short_id("context", role, codec_identity, list(token_ids))


def state_id(draws: Draws, problem_id: str, path: DrawPath) -> str:
    """Return the id of a replay state: of its path of draws, not of its text."""
    return short_id("state", draws.identity(), problem_id, list(path))


def decision_id(draws: Draws, problem_id: str, path: DrawPath) -> str:
    """Return the id of a decision: of the path of draws up to and including it."""
    return short_id("decision", draws.identity(), problem_id, list(path))


class Draws:
    """The source of a round's randomness: what is requested decides, never the order of the requests."""

    def __init__(self, seed: int, round: int, policy_version: str, draw_set: int = 0, purpose: str = "train") -> None:
        self.seed = seed
        self.round = round
        self.policy_version = policy_version
        self.draw_set = draw_set
        self.purpose = purpose

    def identity(self) -> list[Any]:
        """Return what distinguishes these draws from any others, as plain data."""
        return [self.purpose, self.policy_version, self.seed, self.round, self.draw_set]

    def seed_of(self, problem_id: str, path: DrawPath, role: str) -> int:
        """Return the 63-bit seed of one decision, without the policy version, so that policies share random numbers."""
        # greedy answers never use theirs; every other purpose has seeds of its own
        stream = "decision" if self.purpose in ("train", "answer") else self.purpose
        return seed_from(stream, self.seed, self.round, self.draw_set, problem_id, list(path), role)


def seed_from(*parts: Any) -> int:
    """Return a 63-bit seed as a function of its parts."""
    raw = hashlib.sha256(canonical_json(parts).encode()).digest()
    return int.from_bytes(raw[:8], "big") >> 1
