"""Identity: the one hash function, and every id, key, digest and seed made from it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

DrawPath = tuple[int, ...]
"""Which draw was taken at each depth: the path of draws that leads to a decision, or to a state."""

_ID_CHARACTERS = 12
"""60 bits: among 16 million ids two are equal with probability 1e-4 (a check looks); DuckDB keeps 12 bytes inline."""


def digest(value: Any) -> str:
    """Hash of plain data (dicts, lists, strings, numbers, None), as 64 hexadecimal characters."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling per value: keys sorted, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_id(*parts: Any) -> str:
    """A row's id: 12 lower-case base-32 characters of the hash of its parts."""
    raw = hashlib.sha256(canonical_json(parts).encode()).digest()
    return base64.b32encode(raw).decode().lower()[:_ID_CHARACTERS]


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_digest(chunks: Iterable[bytes]) -> str:
    """sha256 of a stream of bytes."""
    running = hashlib.sha256()
    for chunk in chunks:
        running.update(chunk)
    return running.hexdigest()


def context_id(role: str, codec_identity: str, token_ids: Sequence[int]) -> str:
    """The id of a context: what was seen, by which role, in which tokenizer's ids."""
    return short_id("context", role, codec_identity, list(token_ids))


def state_id(draws: Draws, problem_id: str, path: DrawPath) -> str:
    """The id of a replay state: its path of draws, not its text."""
    return short_id("state", draws.identity(), problem_id, list(path))


def decision_id(draws: Draws, problem_id: str, path: DrawPath) -> str:
    """The id of a decision: the path of draws up to and including it."""
    return short_id("decision", draws.identity(), problem_id, list(path))


class Draws:
    """The source of a round's randomness: what is asked for decides, never the order of asking."""

    def __init__(self, seed: int, round: int, policy_version: str, redraw: int = 0, purpose: str = "train") -> None:
        self.seed = seed
        self.round = round
        self.policy_version = policy_version
        self.redraw = redraw
        self.purpose = purpose

    def identity(self) -> list[Any]:
        """What tells these draws from any others."""
        return [self.purpose, self.policy_version, self.seed, self.round, self.redraw]

    def seed_of(self, problem_id: str, path: DrawPath, role: str) -> int:
        """The 63-bit seed of one decision. The policy is left out: a seed is asked for, not earned."""
        # greedy answers never use theirs; every other purpose has seeds of its own
        stream = "decision" if self.purpose in ("train", "answer") else self.purpose
        return seed_from(stream, self.seed, self.round, self.redraw, problem_id, list(path), role)


def seed_from(*parts: Any) -> int:
    """A 63-bit seed as a function of its parts."""
    raw = hashlib.sha256(canonical_json(parts).encode()).digest()
    return int.from_bytes(raw[:8], "big") >> 1
