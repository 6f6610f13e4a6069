"""What every evaluator is to the grade stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stages.problem_sources.protocol import Problem


@dataclass(frozen=True, slots=True)
class Grade:
    """The answer_grade on one answer. A wrong or unreadable answer is data: reward 0 and a reason, never an exception."""

    reward: float
    reason: str
    """Short, for a person: "equal", "12 is not 15", "no number after ####"."""
    parsed_answer: str | None
    """What was read from the answer; None when nothing could be."""


class Evaluator(Protocol):
    """Grades final messages. Deterministic. An exception means the evaluator is broken: the reward becomes NULL."""

    def grade(self, output: str, problem: Problem) -> Grade:
        """The answer_grade on `output`, the last role's message for `problem`."""
        ...
