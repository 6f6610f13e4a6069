"""The math evaluator: what math-verify reads, and that it can neither hang nor kill a stage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from configs.errors import ConfigError
from configs.evaluators import MathEvaluator
from stages.evaluators import math
from stages.evaluators.math import MathGrader
from stages.evaluators.protocol import Evaluator
from stages.evaluators.registry import make_evaluator
from stages.problem_sources.protocol import Problem


def _problem(answer: str) -> Problem:
    return Problem("p1", "suite", "question", answer)


@pytest.fixture(scope="module")
def verifier() -> Evaluator:
    pytest.importorskip("math_verify")
    return make_evaluator(MathEvaluator())


@pytest.mark.parametrize(
    ("output", "answer", "reward"),
    [
        (r"so it is \boxed{\frac{1}{2}}", "0.5", 1),
        (r"\boxed{2x+1}", "1 + 2x", 1),
        (r"\boxed{(3, \frac{\pi}{2})}", r"\left( 3, \frac{\pi}{2} \right)", 1),
        (r"\boxed{3}. " + "No, that was wrong. " * 10 + r"It is \boxed{4}", "4", 1),
        (r"\boxed{3} or \boxed{4}", "4", 0),
        (r"\boxed{\text{odd}}", r"\text{odd}", 1),
        ("the answer is 5", "5", 1),
        (r"\boxed{6}", "5", 0),
        ("", "5", 0),
        ("I do not know", "5", 0),
        ("\0\ud834", "5", 0),
        ("[" * 2000, "5", 0),
    ],
)
def test_math_verify_decides(verifier: Evaluator, output: str, answer: str, reward: int) -> None:
    grade = verifier.grade(output, _problem(answer))
    assert grade.reward == reward
    assert (grade.reason == "equal") == (reward == 1)
    grade.reason.encode()
    (grade.parsed_answer or "").encode()


def test_math_grades_from_any_thread(verifier: Evaluator) -> None:
    with ThreadPoolExecutor(3) as pool:
        grades = list(pool.map(lambda n: verifier.grade(f"\\boxed{{{n}}}", _problem("5")), range(9)))
    assert [grade.reward for grade in grades] == [0, 0, 0, 0, 0, 1, 0, 0, 0]


def test_a_message_that_hangs_math_verify_is_not_graded_and_the_next_one_is(
    monkeypatch: pytest.MonkeyPatch, verifier: Evaluator
) -> None:
    verifier.grade("5", _problem("5"))
    monkeypatch.setattr(math, "SECONDS", 1)
    with pytest.raises(TimeoutError, match="no answer within 1 seconds"):
        verifier.grade(r"\boxed{9^{9^{9^{9}}}}", _problem("5"))
    monkeypatch.undo()
    assert verifier.grade("5", _problem("5")).reward == 1


def test_a_math_process_that_dies_says_why_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    monkeypatch.setattr(math, "_CHILD", "print('{}', flush=True); input(); raise MemoryError('full')")
    grader = MathGrader()
    with pytest.raises(RuntimeError, match="math-verify: MemoryError: full"):
        grader.grade("5", _problem("5"))
    monkeypatch.undo()
    assert grader.grade("5", _problem("5")).reward == 1
    grader.close()


def test_a_reference_that_math_verify_cannot_read_is_the_evaluators_failure(verifier: Evaluator) -> None:
    with pytest.raises(ValueError, match="cannot read the answer"):
        verifier.grade("4", _problem(r"\text{}"))


def test_math_without_its_library_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs math-verify"):
        make_evaluator(MathEvaluator())
