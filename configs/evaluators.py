"""Evaluator sections: how a finished episode is graded."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section


class ExactEvaluator(Section):
    """Reward 1 when the final message is the answer and nothing else, else 0."""

    kind: Literal["exact"] = "exact"


class NumberEvaluator(Section):
    """Reward 1 when the number read from the final message equals the answer, else 0."""

    kind: Literal["number"] = "number"
    read: Literal["whole", "after_mark", "last"] = "after_mark"
    """"whole": the message is the number and nothing else; "after_mark": what follows the last `mark`;
    "last": the last number in the message."""
    mark: str = Field("####", min_length=1)


class MathEvaluator(Section):
    """Reward 1 when math-verify finds the final message's answer equal to the reference, else 0."""

    kind: Literal["math"] = "math"


class TableEvaluator(Section):
    """The scripted world's: the problem's answer is a JSON object from word to reward."""

    kind: Literal["table"] = "table"


EvaluatorConfig = Annotated[
    ExactEvaluator | NumberEvaluator | MathEvaluator | TableEvaluator, Field(discriminator="kind")
]


class GradeConfig(Section):
    """The grade stage."""

    evaluator: EvaluatorConfig = NumberEvaluator()
    max_unscored_share: float = Field(0.02, ge=0, le=1)
    """The stage stops when the evaluator fails on more than this share of answers."""
