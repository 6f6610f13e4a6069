"""The exact evaluator: the message is the answer and nothing else."""

from __future__ import annotations

from configs.evaluators import ExactEvaluator
from stages.evaluators.protocol import Grade
from stages.evaluators.quoting import quote, storable
from stages.problem_sources.protocol import Problem

VERSION = 1
"""Raised by hand when some answer gets another grade: it is in the keys of the grade stage."""


class ExactGrader:
    """Give 1 when output and answer are equal character by character, white space at both ends aside; else 0."""

    def grade(self, output: str, problem: Problem) -> Grade:
        """Grade one message; parsed_answer: the output without the white space around it, None when nothing is left."""
        read, wanted = output.strip(), problem.answer.strip()
        if not read:
            return Grade(0.0, "empty message", None)
        if read == wanted:
            return Grade(1.0, "equal", storable(read))
        return Grade(0.0, f"{quote(read)} is not {quote(wanted)}", storable(read))


def make(config: ExactEvaluator) -> ExactGrader:
    """Return the evaluator."""
    return ExactGrader()
