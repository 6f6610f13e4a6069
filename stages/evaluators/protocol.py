"""What every evaluator is to the grade stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stages.problem_sources.protocol import Problem


@dataclass(frozen=True, slots=True)
class Grade:
    """Say what one answer earns. A wrong or unreadable answer is data: reward 0 and a reason, never an exception."""

    reward: float
    reason: str
    """Short, for a person: "equal", "12 is not 15", "no number after ####"."""
    parsed_answer: str | None
    """What was read from the answer; None when nothing could be."""


class Evaluator(Protocol):
    """Grade final messages, deterministically. An exception means that the evaluator is broken: the reward is NULL then."""

    def grade(self, output: str, problem: Problem) -> Grade:
        """Grade `output`, the last role's message for `problem`."""
        ...
