"""The number evaluator: reads one number from the message and compares it with the answer as an exact rational.

A number is ASCII digits with an optional sign, thousands separators, decimals and a denominator: 4, -1,080,
48.10, 2/6. Around it `$`, `%`, white space and one final period are allowed and mean nothing: 12% is 12, not
0.12. Not numbers: exponents, digits of other scripts, words, two numbers, units. Strict on purpose: a
policy learns to write whatever is accepted here.
"""

from __future__ import annotations

import re
from collections import deque
from fractions import Fraction

from configs.evaluators import NumberEvaluator
from stages.evaluators.protocol import Grade
from stages.evaluators.quoting import quote
from stages.problem_sources.protocol import Problem

VERSION = 1
"""Raised by hand when some answer gets another grade: it is in the keys of the grade stage."""

LONGEST = 400
"""Characters of a number at most: bounds the arithmetic, and keeps clear of Python's limit on integer strings."""

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_NUMBER = rf"(?:{_DIGITS})(?:/[0-9]+(?![0-9]*[.,][0-9]))?"
_WHOLE = re.compile(rf"(?P<before>[+\-\u2212]?)\s*\$?\s*(?P<after>[+\-\u2212]?)(?P<number>{_NUMBER})\s*%?\s*\.?")
# a sign right after a digit, a letter or a closing bracket is an operator or a hyphen: 7-2 ends in 2
_SEARCH = re.compile(rf"(?P<sign>(?<![0-9A-Za-z)\]])[+\-\u2212])?(?:(?<=[+\-\u2212])\$)?(?P<number>{_NUMBER})")


class NumberGrader:
    """Give 1 when the number in the message equals the answer, else 0."""

    def __init__(self, config: NumberEvaluator) -> None:
        self._read = {"whole": read_whole, "last": read_last, "after_mark": self._after_mark}[config.read]
        self._mark = config.mark

    def grade(self, output: str, problem: Problem) -> Grade:
        """Grade one message; parsed_answer: the number in lowest terms, so that 4, 4.0 and 8/2 all give "4".

        ValueError when the problem's own answer is no number: then nothing could be graded.
        """
        wanted = read_whole(problem.answer)
        if isinstance(wanted, str):
            raise ValueError(
                f"problem {problem.problem_id}: answer {quote(problem.answer)}: {wanted}; "
                f"use another evaluator or answer_after"
            )
        read = self._read(output)
        if isinstance(read, str):
            return Grade(0.0, read, None)
        if read == wanted:
            return Grade(1.0, "equal", str(read))
        return Grade(0.0, f"{quote(str(read))} is not {quote(str(wanted))}", str(read))

    def _after_mark(self, text: str) -> Fraction | str:
        _, mark, after = text.rpartition(self._mark)
        return read_whole(after) if mark else f"no {quote(self._mark)} in the message"


def make(config: NumberEvaluator) -> NumberGrader:
    """Return the evaluator."""
    return NumberGrader(config)


def read_whole(text: str) -> Fraction | str:
    """Return the number that `text` is, white space aside, or why it is none."""
    stripped = text.strip()
    if not stripped:
        return "no number: nothing is there"
    if len(stripped) > LONGEST:
        return f"no number: {len(stripped)} characters, more than {LONGEST}"
    found = _WHOLE.fullmatch(stripped)
    if found is None or (found["before"] and found["after"]):
        return f"not one number: {quote(stripped)}"
    return _value(found["before"] or found["after"], found["number"])


def read_last(text: str) -> Fraction | str:
    """Return the last number in `text`, or why there is none."""
    found = deque(_SEARCH.finditer(text), maxlen=1)
    if not found:
        return "no number in the message"
    last = found[0]
    if len(last["number"]) > LONGEST:
        return f"no number: {len(last['number'])} characters, more than {LONGEST}"
    return _value(last["sign"] or "", last["number"])


def _value(sign: str, number: str) -> Fraction | str:
    digits, _, denominator = number.replace(",", "").partition("/")
    if denominator and not denominator.strip("0"):
        return f"no number: {quote(number)} divides by zero"
    value = Fraction(digits) / Fraction(denominator or 1)
    return -value if sign in ("-", "\u2212") else value
