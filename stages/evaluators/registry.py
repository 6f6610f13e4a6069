"""Choosing an evaluator by configuration. Each is imported only when one is made."""

from __future__ import annotations

from typing import assert_never

from configs.evaluators import EvaluatorConfig, ExactEvaluator, MathEvaluator, NumberEvaluator, TableEvaluator
from stages.evaluators.protocol import Evaluator


def make_evaluator(config: EvaluatorConfig) -> Evaluator:
    """The evaluator that a configuration asks for. ConfigError when it needs a library that is not
    installed."""
    match config:
        case ExactEvaluator():
            from stages.evaluators.exact import ExactGrader

            return ExactGrader()
        case NumberEvaluator():
            from stages.evaluators.number import NumberGrader

            return NumberGrader(config)
        case MathEvaluator():
            from stages.evaluators.math import MathGrader

            return MathGrader()
        case TableEvaluator():
            from stages.evaluators.table import TableGrader

            return TableGrader()
        case _:
            assert_never(config)
