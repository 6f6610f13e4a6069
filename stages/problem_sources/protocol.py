"""A problem, whichever source it came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """Hold one question with what is needed to grade an answer to it."""

    problem_id: str
    """Unique within its set."""
    suite: str
    question: str
    answer: str
    """The reference, in the evaluator's terms: a number, an expression, a JSON object."""
