"""The scripted world's problems: every word has a reward of its own."""

from __future__ import annotations

from typing import Any

from configs.problems import ScriptedProblems
from stages.problem_sources.protocol import Problem
from store.disk.hashing import canonical_json
from store.disk.ids import seed_from

VERSION = 1
"""Raised by hand when the same configuration gives other problems: it is in the keys of the problems stage."""


def problems(config: ScriptedProblems) -> list[Problem]:
    """Return `count` problems; each answer is a JSON object from word to a reward in [0, 1], of 3 decimals."""
    return [
        Problem(
            problem_id=f"scripted-{index:06d}",
            suite="scripted",
            question=f"problem {index}",
            answer=canonical_json({word: _reward(config.seed, index, word) for word in config.words}),
        )
        for index in range(config.count)
    ]


def identity(config: ScriptedProblems) -> dict[str, Any]:
    """Return what the set is a function of: all of its section."""
    return config.model_dump(mode="json")


def _reward(seed: int, index: int, word: str) -> float:
    return round(seed_from("reward", seed, index, word) / 2**63, 3)
