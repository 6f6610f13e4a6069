"""Generated problem sets: right answers, no question twice, nothing held out in training."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest

from configs.errors import ConfigError
from configs.problems import ArithmeticProblems, ProblemsConfig, ScriptedProblems
from stages.problem_sources.arithmetic import LARGEST_FACTOR
from stages.problem_sources.overlap import overlap
from stages.problem_sources.protocol import Problem
from stages.problem_sources.registry import SOURCES, load_problems, source_identity


def _questions(problems: list[Problem]) -> set[str]:
    return {problem.question for problem in problems}


STEP: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def test_the_plain_questions_answers_are_right() -> None:
    checked = set()
    for problem in load_problems(ArithmeticProblems(count=1500, two_step_share=0.5)):
        plain = re.fullmatch(r"What is (\d+) ([-+*]) (\d+)(?: ([-+*]) (\d+))?\?", problem.question)
        if plain is None:
            continue
        a, first, b, second, c = plain.groups()
        result = STEP[first](int(a), int(b))
        if second is not None:
            result = STEP[second](result, int(c))
        assert problem.answer == str(result), problem
        checked.add((first, second))
    one_step, two_step = (
        {("+", None), ("-", None), ("*", None)},
        {("+", "+"), ("+", "-"), ("-", "+"), ("*", "+")},
    )
    assert checked == one_step | two_step


WORDINGS: dict[str, Callable[..., int]] = {
    r"\w+ has (\d+) \w+ and gets (\d+) more\. .* have now\?": lambda a, b: a + b,
    r"There are (\d+) \w+ on the table and (\d+) in a box\. .* in all\?": lambda a, b: a + b,
    r"\w+ found (\d+) \w+ before noon and (\d+) after\. .* find\?": lambda a, b: a + b,
    r"\w+ has (\d+) \w+ and gives (\d+) away\. .* left\?": lambda a, b: a - b,
    r"\w+ had (\d+) \w+ and lost (\d+) of them\. .* still have\?": lambda a, b: a - b,
    r"\w+ needs (\d+) \w+ and has (\d+)\. How many more .* need\?": lambda a, b: a - b,
    r"There are (\d+) bags with (\d+) \w+ in each\. .* are there\?": lambda a, b: a * b,
    r"\w+ buys (\d+) \w+ every day\. .* in (\d+) days\?": lambda a, b: a * b,
    r"\w+ has (\d+) \w+, gets (\d+) more and then gives (\d+) away\. .* left\?": lambda a, b, c: a + b - c,
    r"\w+ had (\d+) \w+, sold (\d+) and bought (\d+) others\. .* now\?": lambda a, b, c: a - b + c,
    r"There were (\d+) \w+ in a box\. \w+ took (\d+), then (\d+) more\. .* left\?": lambda a, b, c: a - b - c,
    r"\w+ has (\d+) bags with (\d+) \w+ in each, and (\d+) loose .* that\?": lambda a, b, c: a * b + c,
    r"\w+ buys (\d+) packs of (\d+) \w+ and uses (\d+) of them\. .* left\?": lambda a, b, c: a * b - c,
}


def test_the_everyday_questions_answers_are_right() -> None:
    met = set()
    for problem in load_problems(ArithmeticProblems(count=600, two_step_share=0.5)):
        if problem.question.startswith("What is"):
            continue
        [(wording, found)] = [
            (wording, found) for wording in WORDINGS if (found := re.fullmatch(wording, problem.question))
        ]
        assert problem.answer == str(WORDINGS[wording](*map(int, found.groups()))), problem
        met.add(wording)
    assert met == set(WORDINGS)


@pytest.mark.parametrize("largest", [2, 7, 20, 1000])
def test_numbers_stay_within_the_largest_and_answers_are_natural(largest: int) -> None:
    for problem in load_problems(ArithmeticProblems(count=30, largest=largest, two_step_share=0.5)):
        assert all(int(number) <= largest for number in re.findall(r"\d+", problem.question))
        assert 0 <= int(problem.answer) <= max(LARGEST_FACTOR**2 + largest, 3 * largest)


def test_no_question_comes_twice_and_ids_are_unique() -> None:
    problems = load_problems(ArithmeticProblems(count=2000))
    assert len(_questions(problems)) == len({problem.problem_id for problem in problems}) == 2000
    assert problems[123].problem_id == "arithmetic-000123"


def test_the_share_of_two_step_questions_is_as_asked() -> None:
    for share in (0.0, 0.25, 1.0):
        problems = load_problems(ArithmeticProblems(count=200, two_step_share=share))
        two_step = [problem for problem in problems if len(re.findall(r"\d+", problem.question)) == 3]
        assert len(two_step) == 200 * share


def test_the_same_seed_gives_the_same_problems_and_a_longer_set_starts_with_the_shorter() -> None:
    short = load_problems(ArithmeticProblems(count=50))
    assert load_problems(ArithmeticProblems(count=80))[:50] == short
    assert len(_questions(short) & _questions(load_problems(ArithmeticProblems(count=50, seed=1)))) < 25


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_held_out_calculation_occurs_in_training_whatever_the_seeds_and_wordings(seed: int) -> None:
    train = load_problems(ArithmeticProblems(count=1000, seed=0))
    heldout = load_problems(ArithmeticProblems(count=300, seed=seed, split="heldout"))

    def calculations(problems: list[Problem]) -> set[tuple[Any, ...]]:
        numbers = [tuple(re.findall(r"\d+", problem.question)) for problem in problems]
        return {(*found, problem.answer) for found, problem in zip(numbers, problems, strict=True)}

    assert overlap(train, heldout) == []
    # the numbers and their result tell the operations, but for coincidences such as 2 + 2 and 2 * 2
    shared = calculations(train) & calculations(heldout)
    assert all(_ambiguous(*map(int, calculation)) for calculation in shared), shared
    assert not {problem.problem_id for problem in train} & {problem.problem_id for problem in heldout}


def _ambiguous(*numbers: int) -> bool:
    """Whether two of the calculations in use give this result from these numbers."""
    *operands, result = numbers
    if len(operands) == 2:
        a, b = operands
        results = [a + b, a - b, a * b]
    else:
        a, b, c = operands
        results = [a + b + c, a + b - c, a - b + c, a - b - c, a * b + c, a * b - c]
    return results.count(result) > 1


def test_asking_for_more_than_there_is_names_the_limit_and_the_limit_works() -> None:
    with pytest.raises(ConfigError, match=r"problems\.count: 5000, .* run out after (\d+) problems") as caught:
        load_problems(ArithmeticProblems(count=5000, largest=5))
    limit = re.search(r"after (\d+)", str(caught.value))
    assert limit is not None
    assert len(load_problems(ArithmeticProblems(count=int(limit[1]), largest=5))) == int(limit[1])


def test_a_large_range_of_numbers_costs_no_more_than_the_questions_drawn() -> None:
    assert len(load_problems(ArithmeticProblems(count=20, largest=10**6))) == 20  # 10^19 questions are possible


def test_generated_sets_are_keyed_by_their_configuration_and_the_sources_version() -> None:
    identity = source_identity(ArithmeticProblems(count=5))
    assert identity["count"] == 5 and identity["split"] == "train" and identity["version"] == 1
    assert source_identity(ScriptedProblems())["version"] == 1


def test_every_source_that_can_be_configured_has_its_row() -> None:
    sections, _ = get_args(ProblemsConfig)
    assert set(SOURCES) == set(get_args(sections))


# scripted


def test_scripted_problems_reward_every_word_with_three_decimals_in_zero_to_one() -> None:
    problems = load_problems(ScriptedProblems(count=200, words=("ant", "bee")))
    rewards = [reward for problem in problems for reward in json.loads(problem.answer).values()]
    assert problems[3].question == "problem 3"
    assert all(0 <= reward <= 1 and round(reward, 3) == reward for reward in rewards)
    assert 0.45 < sum(rewards) / 400 < 0.55 and len(set(rewards)) > 300
    assert load_problems(ScriptedProblems(seed=1))[0].answer != load_problems(ScriptedProblems())[0].answer
