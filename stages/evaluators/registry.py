"""Evaluators by configuration, and what of one belongs in the keys of what it grades."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from configs.evaluators import EvaluatorConfig, ExactEvaluator, MathEvaluator, NumberEvaluator, TableEvaluator
from configs.section import Section
from stages.evaluators import exact, math, number, table
from stages.evaluators.protocol import Evaluator


class EvaluatorModule(Protocol):
    """Define what the module of an evaluator holds. Importing it is cheap: keys are computed from it."""

    VERSION: int
    """Raised by hand when some answer gets another grade."""

    def make(self, config: Any, /) -> Evaluator:
        """Return the evaluator. ConfigError when it needs a library that is not installed."""
        ...


EVALUATORS: Mapping[type[Section], EvaluatorModule] = {
    ExactEvaluator: exact,
    NumberEvaluator: number,
    MathEvaluator: math,
    TableEvaluator: table,
}
"""Every evaluator: the section that configures it, and its module."""


def make_evaluator(config: EvaluatorConfig) -> Evaluator:
    """Return the configured evaluator. ConfigError when it needs a library that is not installed."""
    return EVALUATORS[type(config)].make(config)


def evaluator_identity(config: EvaluatorConfig) -> dict[str, Any]:
    """Return what a grade is a function of besides the answer and its problem: settings and the evaluator's version."""
    return {**config.model_dump(mode="json"), "version": EVALUATORS[type(config)].VERSION}
