"""Arithmetic word problems from a seed: something to train on without a download.

A question is a template with numbers in it; answers are integers from 0. Each wording of each calculation
comes once, in a seeded random order, so a longer set starts with the shorter one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError
from configs.problems import ArithmeticProblems
from stages.problem_sources.protocol import Problem
from store.disk.ids import seed_from

VERSION = 1
"""Raised by hand when the same configuration gives other problems: it is in the keys of the problems stage."""

LARGEST_FACTOR = 10
"""Products stay in the multiplication table, whatever the largest number."""

HELDOUT_ONE_IN = 5

_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jack", "Kim", "Leo")
_THINGS = ("apples", "pens", "stickers", "marbles", "cards", "coins", "books", "shells", "stamps", "cookies")


@dataclass(frozen=True, slots=True)
class _Template:
    """Word one calculation. `operations` are applied from left to right."""

    operations: str
    text: str
    least: int = 2
    """Smallest number in it: everyday wording has plurals."""


_ONE_STEP = (
    _Template("+", "What is {a} + {b}?", 0),
    _Template("-", "What is {a} - {b}?", 0),
    _Template("*", "What is {a} * {b}?", 0),
    _Template("+", "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?"),
    _Template("+", "There are {a} {things} on the table and {b} in a box. How many {things} are there in all?"),
    _Template(
        "+",
        "{name} found {a} {things} before noon and {b} after. How many {things} did {name} find?",
    ),
    _Template("-", "{name} has {a} {things} and gives {b} away. How many {things} are left?"),
    _Template("-", "{name} had {a} {things} and lost {b} of them. How many {things} does {name} still have?"),
    _Template("-", "{name} needs {a} {things} and has {b}. How many more {things} does {name} need?"),
    _Template("*", "There are {a} bags with {b} {things} in each. How many {things} are there?"),
    _Template("*", "{name} buys {a} {things} every day. How many {things} does {name} buy in {b} days?"),
)

_TWO_STEP = (
    _Template("++", "What is {a} + {b} + {c}?", 0),
    _Template("+-", "What is {a} + {b} - {c}?", 0),
    _Template("-+", "What is {a} - {b} + {c}?", 0),
    _Template("*+", "What is {a} * {b} + {c}?", 0),
    _Template("+-", "{name} has {a} {things}, gets {b} more and then gives {c} away. How many {things} are left?"),
    _Template(
        "-+",
        "{name} had {a} {things}, sold {b} and bought {c} others. How many {things} does {name} have now?",
    ),
    _Template(
        "--",
        "There were {a} {things} in a box. {name} took {b}, then {c} more. How many {things} are left?",
    ),
    _Template(
        "*+",
        "{name} has {a} bags with {b} {things} in each, and {c} loose {things}. How many {things} is that?",
    ),
    _Template("*-", "{name} buys {a} packs of {b} {things} and uses {c} of them. How many {things} are left?"),
)


def problems(config: ArithmeticProblems) -> list[Problem]:
    """Return `count` distinct problems; every k-th has two steps, k = 1 / two_step_share.

    ConfigError naming the limit when fewer distinct questions exist.
    """
    sources = (_questions(config, _ONE_STEP, "one"), _questions(config, _TWO_STEP, "two"))
    prefix = "arithmetic" if config.split == "train" else "arithmetic-heldout"
    made: list[Problem] = []
    for index in range(config.count):
        two_step = int((index + 1) * config.two_step_share) > int(index * config.two_step_share)
        drawn = next(sources[two_step], None)
        if drawn is None:
            raise ConfigError(
                f"problems.count: {config.count}, but with largest = {config.largest} and split = "
                f"'{config.split}' the {'two' if two_step else 'one'}-step questions run out after {index} "
                f"problems; set count = {index} or less, or a larger `largest`"
            )
        question, answer = drawn
        made.append(Problem(f"{prefix}-{index:06d}", prefix, question, str(answer)))
    return made


def identity(config: ArithmeticProblems) -> dict[str, Any]:
    """Return what the set is a function of: all of its section."""
    return config.model_dump(mode="json")


def _questions(config: ArithmeticProblems, templates: tuple[_Template, ...], steps: str) -> Iterator[tuple[str, int]]:
    """Yield every question of the split with its answer, in seeded random order."""
    numbers = len(templates[0].operations) + 1
    span = config.largest + 1
    seed = seed_from("arithmetic", VERSION, steps, config.seed)
    for code in _shuffled(len(templates) * span**numbers, seed):
        rest, which = divmod(code, len(templates))
        operands = [rest // span**place % span for place in range(numbers)]
        template = templates[which]
        answer = _answer(template, operands)
        if answer is not None and _is_heldout(template.operations, operands) == (config.split == "heldout"):
            yield _worded(template, operands, config.seed), answer


def _answer(template: _Template, operands: list[int]) -> int | None:
    """Return the result; None where the template does not take these numbers, or a step would go below zero."""
    if min(operands) < template.least:
        return None
    result = operands[0]
    for operation, operand in zip(template.operations, operands[1:], strict=True):
        if operation == "*" and max(result, operand) > LARGEST_FACTOR:
            return None
        result = _OPERATIONS[operation](result, operand)
        if result < 0:
            return None
    return result


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _is_heldout(operations: str, operands: list[int]) -> bool:
    """Decide by the calculation, not its wording. 3 + 4 and 4 + 3 are one calculation."""
    ordered = sorted(operands[:2]) if operations[0] in "+*" else operands[:2]
    return seed_from("arithmetic split", operations, [*ordered, *operands[2:]]) % HELDOUT_ONE_IN == 0


def _worded(template: _Template, operands: list[int], seed: int) -> str:
    pick = seed_from("arithmetic wording", seed, template.text, operands)
    name = _NAMES[pick % len(_NAMES)]
    things = _THINGS[pick // len(_NAMES) % len(_THINGS)]
    return template.text.format(name=name, things=things, **dict(zip("abc", operands, strict=False)))


def _shuffled(size: int, seed: int) -> Iterator[int]:
    """Yield 0 .. size - 1 in random order, holding only what has been moved (Fisher and Yates, sparse)."""
    moved: dict[int, int] = {}
    for place in range(size):
        other = place + seed_from("shuffle", seed, place) % (size - place)
        yield moved.get(other, other)
        moved[other] = moved.pop(place, place)
