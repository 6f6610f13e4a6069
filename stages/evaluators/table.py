"""The table evaluator of scripted worlds: the problem's answer says what every word earns."""

from __future__ import annotations

import json
from math import isfinite

from configs.evaluators import TableEvaluator
from stages.evaluators.protocol import Grade
from stages.evaluators.quoting import quote, storable
from stages.problem_sources.protocol import Problem

VERSION = 1
"""Raised by hand when some answer gets another grade: it is in the keys of the grade stage."""


class TableGrader:
    """Give the reward of the output's word in the problem's table; 0 for a word that is not in it."""

    def grade(self, output: str, problem: Problem) -> Grade:
        """Grade one message; parsed_answer: the word. ValueError when the answer is no JSON object of finite numbers."""
        word, table = output.strip(), _table(problem)
        if word not in table:
            return Grade(0.0, f"{quote(word)} is not in the table", None)
        return Grade(table[word], f"the table's reward for {quote(word)}", storable(word))


def make(config: TableEvaluator) -> TableGrader:
    """Return the evaluator."""
    return TableGrader()


def _table(problem: Problem) -> dict[str, float]:
    try:
        table = json.loads(problem.answer)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(_is_reward(reward) for reward in table.values()):
        raise ValueError(
            f"problem {problem.problem_id}: answer {quote(problem.answer)} is no JSON object of numbers, "
            f'which the table evaluator needs ({{"ant": 0.5}})'
        )
    return {word: float(reward) for word, reward in table.items()}


def _is_reward(reward: object) -> bool:
    if isinstance(reward, float):
        return isfinite(reward)
    return isinstance(reward, int) and not isinstance(reward, bool) and abs(reward) < 2**53
