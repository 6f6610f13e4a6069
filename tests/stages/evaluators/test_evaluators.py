"""Evaluators: worked readings, and no message that breaks them."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.evaluators import EvaluatorConfig, ExactEvaluator, MathEvaluator, NumberEvaluator, TableEvaluator
from configs.problems import ScriptedProblems
from stages.evaluators import number
from stages.evaluators.number import LONGEST, NumberGrader
from stages.evaluators.protocol import Grade
from stages.evaluators.registry import EVALUATORS, evaluator_identity, make_evaluator
from stages.problem_sources.protocol import Problem
from stages.problem_sources.registry import load_problems

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))  # lone surrogates and control characters too
NUMBERISH = st.text("0123456789,./-+$% #\u2212\u200f\u0663\n\0eE^{}\\", max_size=40)


def _problem(answer: str) -> Problem:
    return Problem("p1", "suite", "question", answer)


def _number(read: str) -> NumberGrader:
    return NumberGrader(NumberEvaluator.model_validate({"read": read}))


def _assert_storable(grade: Grade) -> None:
    """Whatever was read, the grade is finite and fits in a Parquet file."""
    assert 0 <= grade.reward <= 1
    grade.reason.encode()
    assert len(grade.reason) < 250 and "\n" not in grade.reason
    if grade.parsed_answer is not None:
        grade.parsed_answer.encode()


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("4", "4"),
        ("  4.0\n", "4"),
        ("4.", "4"),
        ("+4", "4"),
        ("-4", "-4"),
        ("\u22124", "-4"),
        ("$4", "4"),
        ("-$4", "-4"),
        ("$-4", "-4"),
        ("12%", "12"),
        ("12 % .", "12"),
        ("1,080", "1080"),
        ("109,200,000.50", "218400001/2"),
        (".5", "1/2"),
        ("2/6", "1/3"),
        ("8/2", "4"),
        ("007", "7"),
        ("-0", "0"),
        ("9" * 400, "9" * 400),
    ],
)
def test_one_number_is_read(output: str, parsed: str) -> None:
    assert _number("whole").grade(output, _problem(parsed)) == Grade(1.0, "equal", parsed)


@pytest.mark.parametrize(
    "output",
    [
        "",
        " ",
        ".",
        "4 5",
        "4 apples",
        "four",
        "4..",
        "--4",
        "-$-4",
        "1,08",
        "1,0800",
        "10,80",
        ",080",
        "1e3",
        "4!",
        "#4",
        "(4)",
        "1/0",
        "1/00",
        "1//2",
        "1/2/3",
        "\u0664",  # Arabic-Indic four
        "\uff14",  # full-width four
        "\u00bc",  # a quarter
        "4\u200f",  # right-to-left mark
        "4\0",
        "\ud834",
        "inf",
        "nan",
        "0x10",
        "1_000",
        "9" * (LONGEST + 1),
        "1" * 5000,  # past Python's limit on integer strings
        "1/" + "9" * 5000,
    ],
)
def test_what_is_not_one_number_earns_nothing(output: str) -> None:
    grade = _number("whole").grade(output, _problem("4"))
    assert (grade.reward, grade.parsed_answer) == (0.0, None)
    assert grade.reason.startswith(("no number", "not one number"))
    _assert_storable(grade)


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("5 + 7 = 12\n#### 12", "12"),
        ("#### 3 #### 12", "12"),  # the last mark counts
        ("####12.", "12"),
        ("#### $1,234", "1234"),
        ("##### 12", "12"),
        ("12", None),  # no mark
        ("#### 12 apples", None),
        ("#### 12\nand more", None),
        ("#### 12 ####", None),
        ("####", None),
        ("## 12", None),
    ],
)
def test_what_follows_the_last_mark_must_be_one_number(output: str, parsed: str | None) -> None:
    assert _number("after_mark").grade(output, _problem("12")).parsed_answer == parsed


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("I had 3, now 12.", "12"),
        ("12 apples", "12"),
        ("it is -12", "-12"),
        ("7-2", "2"),  # an operator, not a sign
        ("(7)-2", "2"),
        ("x = -2", "-2"),
        ("a loss of -$2", "-2"),
        ("costs $1,234.50!", "2469/2"),
        ("a share of 2/6 is left", "1/3"),
        ("1,2,3", "3"),
        ("12,345,67", "67"),
        ("nothing", None),
        ("", None),
        ("1/0", None),
        ("\u0664", None),
        ("8" * 5000, None),
    ],
)
def test_the_last_number_is_read(output: str, parsed: str | None) -> None:
    assert _number("last").grade(output, _problem("0")).parsed_answer == parsed


def test_numbers_are_compared_exactly() -> None:
    whole = _number("whole")
    assert whole.grade("0.1", _problem("1/10")).reward == 1
    assert whole.grade("0.3333333333333333", _problem("1/3")).reward == 0
    assert whole.grade("9007199254740993", _problem("9007199254740992")).reward == 0  # one float, two integers
    assert whole.grade("15", _problem("12")) == Grade(0.0, "15 is not 12", "15")


def test_a_reference_that_is_no_number_is_the_evaluators_failure_not_the_answers() -> None:
    with pytest.raises(ValueError, match=r"problem p1: answer twelve: not one number"):
        _number("last").grade("12", _problem("twelve"))


@pytest.mark.parametrize("read", ["whole", "after_mark", "last"])
@given(output=ANYTHING | NUMBERISH | NUMBERISH.map("#### ".__add__))
def test_no_message_breaks_the_number_evaluator(read: str, output: str) -> None:
    _assert_storable(_number(read).grade(output, _problem("4")))


@given(st.integers() | st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_a_number_written_plainly_is_read_as_itself(number: object) -> None:
    for read, output in [
        ("whole", f"{number}"),
        ("after_mark", f"so #### {number}"),
        ("last", f"so: {number}"),
    ]:
        assert _number(read).grade(output, _problem(str(number))).reward == 1


def test_exact_wants_the_answer_and_nothing_else() -> None:
    exact = make_evaluator(ExactEvaluator())
    assert exact.grade(" blue\n", _problem("blue")) == Grade(1.0, "equal", "blue")
    assert exact.grade("Blue", _problem("blue")) == Grade(0.0, "Blue is not blue", "Blue")
    assert exact.grade("blue.", _problem("blue")).reward == 0
    assert exact.grade(" ", _problem("blue")) == Grade(0.0, "empty message", None)


def test_the_table_says_what_every_word_earns() -> None:
    table = make_evaluator(TableEvaluator())
    problem = _problem('{"ant": 0.25, "bee": 1}')
    assert table.grade("ant", problem) == Grade(0.25, "the table's reward for ant", "ant")
    assert table.grade("bee", problem).reward == 1.0
    assert table.grade("cat", problem) == Grade(0.0, "cat is not in the table", None)
    assert table.grade("", problem).parsed_answer is None


@pytest.mark.parametrize("answer", ["", "4", "[1]", '{"ant": "1"}', '{"ant": NaN}', '{"ant": true}', '{"ant": null}'])
def test_a_table_that_is_none_is_the_evaluators_failure(answer: str) -> None:
    with pytest.raises(ValueError, match="problem p1"):
        make_evaluator(TableEvaluator()).grade("ant", _problem(answer))


def test_every_word_of_a_scripted_problem_earns_what_its_table_says() -> None:
    for problem in load_problems(ScriptedProblems(count=3)):
        for word, reward in json.loads(problem.answer).items():
            assert make_evaluator(TableEvaluator()).grade(word, problem).reward == reward


@pytest.mark.parametrize("config", [ExactEvaluator(), TableEvaluator()])
@given(output=ANYTHING)
def test_no_message_breaks_exact_or_table(config: ExactEvaluator | TableEvaluator, output: str) -> None:
    _assert_storable(make_evaluator(config).grade(output, _problem('{"ant": 0.5}')))


def test_an_empty_mark_is_refused_when_the_configuration_is_read() -> None:
    with pytest.raises(ValueError, match="at least 1 character"):
        NumberEvaluator(mark="")


def test_every_evaluator_that_can_be_configured_has_its_row() -> None:
    sections, _ = get_args(EvaluatorConfig)
    assert set(EVALUATORS) == set(get_args(sections))


def test_an_evaluators_identity_is_its_settings_and_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"kind": "number", "read": "last", "mark": "####"}
    assert evaluator_identity(NumberEvaluator(read="last")) == {**settings, "version": 1}
    monkeypatch.setattr(number, "VERSION", 2)
    assert evaluator_identity(NumberEvaluator(read="last")) == {**settings, "version": 2}
    assert evaluator_identity(ExactEvaluator()) == {"kind": "exact", "version": 1}


def test_every_evaluator_of_the_configuration_can_be_made() -> None:
    pytest.importorskip("math_verify")
    for config in (ExactEvaluator(), NumberEvaluator(), MathEvaluator(), TableEvaluator()):
        assert callable(make_evaluator(config).grade)
