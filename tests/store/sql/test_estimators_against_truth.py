"""What the estimators do to worlds whose Q and V are enumerated: bias, variance, and what becomes of the gradient.

The same figures, over more copies, are the table of docs/results-credit.md (bench/estimators.py makes it). Every bound is
stated in standard errors of the figure: 4 of them are passed by chance once in 16,000.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import fsum

import numpy as np
import pytest

from store.queries.estimators import estimators
from tests.support.estimator_truth import (
    ADDED,
    WORTH,
    Credited,
    Figures,
    Play,
    World,
    credit_of,
    gradients,
    learned_values,
    measure,
    play,
    upstream_decides,
    worlds,
)
from tests.support.stored_rounds import Values

COPIES = 800
CHANCE = 8.0
"""Of `gradient_chance`: were all the gradient's noise in one direction, 2.8 standard errors."""
NAMES = ("solo", "duo", "trio", "diamond", "agreement", "irrelevant", "unequal")
EQUAL_COUNTS = [name for name in NAMES if name != "unequal"]


@cache
def _copies(name: str) -> Play:
    return play(next(world for world in worlds() if world.name == name), COPIES, seed=7)


@cache
def _values(name: str) -> Values:
    return learned_values(_copies(name))


@cache
def _played(name: str) -> tuple[Play, dict[str, Credited]]:
    return _copies(name), credit_of(_copies(name), estimators(), _values(name))


@cache
def _figures(name: str, estimator: str) -> Figures:
    played, credit = _played(name)
    return measure(played, credit[estimator])


def test_these_are_the_worlds_of_the_table() -> None:
    assert tuple(world.name for world in worlds()) == NAMES


@pytest.mark.parametrize("world", NAMES)
def test_c3_is_unbiased_and_so_is_its_gradient(world: str) -> None:
    found = _figures(world, "c3")
    assert abs(found.slope - 1) < 4 * found.slope_error
    assert abs(found.gradient_slope - 1) < 4 * found.gradient_slope_error
    # what is left after its noise is taken out, cell by cell, is noise: a tenth of the return's own size would show
    assert found.bias < 1.5 * found.bias_noise < 0.05
    assert found.gradient_chance < CHANCE
    assert max(found.slope_error, found.gradient_slope_error) < 0.06


@pytest.mark.parametrize("world", EQUAL_COUNTS)
def test_the_plain_mean_is_c3_shrunk_by_one_part_in_n(world: str) -> None:
    _, credit = _played(world)
    siblings = {"solo": {1: 8}, "duo": {1: 2, 2: 4}, "agreement": {1: 2, 2: 4}, "irrelevant": {1: 2, 2: 4}}
    n_of = siblings.get(world, dict.fromkeys((1, 2, 3, 4), 2))
    for (message, mine), (other, theirs) in zip(credit["c3"], credit["full_mean"], strict=True):
        n = n_of[message.depth]
        assert message is other
        assert theirs == pytest.approx((n - 1) / n * mine, abs=1e-14)
    found, shrunk = _figures(world, "full_mean"), (min(n_of.values()) - 1) / min(n_of.values())
    assert found.gradient_slope < 1 - 4 * found.gradient_slope_error
    assert found.gradient_slope > shrunk - 4 * found.gradient_slope_error


@pytest.mark.parametrize("world", [name for name in NAMES if name != "solo"])
def test_without_fixed_contexts_the_estimate_is_biased_and_the_gradient_is_not(world: str) -> None:
    for estimator in ("no_replay", "rloo"):
        found = _figures(world, estimator)
        assert found.bias > 3 * found.bias_noise
        assert found.bias > 3 * _figures(world, "c3").bias
        assert abs(found.gradient_slope - 1) < 4 * found.gradient_slope_error
        assert found.gradient_chance < CHANCE


def test_without_fixed_contexts_an_answer_is_credited_with_its_context() -> None:
    # fanout 2,4: of an answer's 7 others 3 saw h and 4 another h', so E b = (3 V(h) + 4 E V) / 7, which is off Q - V by
    # 4/7 (V(h) - E V)
    played, credit = _played("duo")
    excess = _values_of_contexts(played.world)
    pairs = [(value - m.worth, excess[m.parameters.start], m.copy) for m, value in credit["no_replay"] if m.depth == 2]
    error_J, excess_J, copy_J = (np.array(column) for column in zip(*pairs, strict=True))
    square = float((excess_J**2).sum())
    slope = float((error_J * excess_J).sum()) / square
    by_copy = np.bincount(copy_J, (error_J - 4 / 7 * excess_J) * excess_J, COPIES)
    noise = float(by_copy.std(ddof=1) * np.sqrt(COPIES)) / square
    assert abs(slope - 4 / 7) < 4 * noise < 0.2


def _values_of_contexts(world: World) -> dict[int, float]:
    """First parameter of each context of the second role -> V(h) - E V."""
    found = {}
    for problem in world.problems:
        mean = world.truth.v(problem, {})
        for word in world.truth.words:
            value = world.truth.v(problem, world.upstream((word,)))
            found[world.blocks[problem, world.context(problem, (word,))]] = value - mean
    return found


def test_a_role_that_makes_no_difference_gets_exactly_nothing_from_c3_alone() -> None:
    _, credit = _played("irrelevant")
    answers = {name: [value for message, value in rows if message.depth == 2] for name, rows in credit.items()}
    assert set(answers["c3"]) == set(answers["full_mean"]) == {0.0}
    for name in ("global_mean", "no_replay", "magrpo", "rloo"):
        assert np.std(answers[name]) > 0.2


@pytest.mark.parametrize("world", NAMES)
def test_a_batch_mean_is_off_by_what_each_problem_is_worth_and_not_in_its_gradient(world: str) -> None:
    found = _figures(world, "global_mean")
    assert found.bias > 3 * found.bias_noise
    assert abs(found.gradient_slope - 1) < 4 * found.gradient_slope_error


@pytest.mark.parametrize("world", NAMES)
def test_a_learned_baseline_is_wrong_in_the_estimate_and_not_in_its_gradient(world: str) -> None:
    for estimator in ("mappo", "value_assisted"):
        found = _figures(world, estimator)
        assert found.bias > 3 * found.bias_noise
        assert abs(found.gradient_slope - 1) < 4 * found.gradient_slope_error < 0.25
        assert found.gradient_chance < CHANCE


@pytest.mark.parametrize("world", NAMES)
def test_mappos_gradient_varies_less_than_c3s(world: str) -> None:
    assert _figures(world, "mappo").gradient_variance < 0.9 * _figures(world, "c3").gradient_variance


@pytest.mark.parametrize("world", NAMES)
def test_mappo_is_off_by_the_heads_error_in_the_value_of_the_state(world: str) -> None:
    # E[A | h, a] = Q(h, a) - V^(h), which is off Q - V by V(h) - V^(h): so are the means, cell by cell
    found, messages = _figures(world, "mappo"), _copies(world).messages
    error_of: dict[int, list[float]] = {}
    for name, (expected, _) in _values(world).items():
        assert expected is not None
        error_of.setdefault(messages[name].cell, []).append(messages[name].value - expected)
    square = fsum(len(errors) * np.mean(errors) ** 2 for errors in error_of.values()) / len(messages)
    assert abs(found.bias - square**0.5) < 3 * found.bias_noise < 0.05


@pytest.mark.parametrize("world", NAMES)
def test_value_only_is_as_far_from_value_assisted_as_its_head_is_from_the_return(world: str) -> None:
    played, credit = _played(world)
    named = {id(message): name for name, message in played.messages.items()}
    earned: dict[str, list[float]] = {}
    for ending in played.endings:
        for name in ending.credited:
            assert ending.reward is not None
            earned.setdefault(name, []).append(ending.reward)
    for (message, only), (other, assisted) in zip(credit["value_only"], credit["value_assisted"], strict=True):
        name = named[id(message)]
        expected = _values(world)[name][1]
        assert message is other and expected is not None
        assert only - assisted == pytest.approx(expected - np.mean(earned[name]), abs=1e-12)


def test_value_only_is_right_where_its_head_can_be_and_nowhere_else() -> None:
    # the first word alone decides, and is worth the same in every context: a linear head can say so
    right = _figures("irrelevant", "value_only")
    assert abs(right.slope - 1) < 4 * right.slope_error
    assert abs(right.gradient_slope - 1) < 4 * right.gradient_slope_error
    assert right.bias < 2 * right.bias_noise < 0.04
    # what a word is worth hangs on another word, and a sum over words cannot say that: half of the gradient is lost
    wrong = _figures("agreement", "value_only")
    assert wrong.gradient_slope < 0.5
    assert wrong.bias > 10 * wrong.bias_noise


def _variance_of_a_covariance(pairs: list[tuple[float, np.ndarray]], n: int) -> float:
    """Trace of the covariance of C_n, the unbiased sample covariance of x and s over n independent pairs.

    E s = 0. Var C_n = mu_22 / n - (n - 2) |mu_11|^2 / (n (n - 1)) + mu_20 mu_02 / (n (n - 1)); `pairs` are equally likely.
    """
    mean = fsum(x for x, _ in pairs) / len(pairs)
    mu_22 = fsum((x - mean) ** 2 * float(s @ s) for x, s in pairs) / len(pairs)
    mu_11 = sum((x - mean) * s for x, s in pairs) / len(pairs)
    mu_20 = fsum((x - mean) ** 2 for x, _ in pairs) / len(pairs)
    mu_02 = fsum(float(s @ s) for _, s in pairs) / len(pairs)
    return mu_22 / n - (n - 2) * float(mu_11 @ mu_11) / (n * (n - 1)) + mu_20 * mu_02 / (n * (n - 1))


def _score(first: int, second: int) -> np.ndarray:
    """grad log pi of the second role's word, in the three contexts that the first word makes, [9]."""
    score = np.zeros(9)
    score[3 * first : 3 * first + 3] = -1 / 3
    score[3 * first + second] += 1
    return score


def test_where_upstream_decides_magrpos_gradient_varies_as_derived_and_far_more_than_c3s() -> None:
    """R = u(a_1) + v(a_2), uniform words, B = 8; the gradient is that of the second role.

    magrpo, 8 episodes: g = (1/8) sum (R_j - mean R) s_j = 7/8 C_8(R, s), so its variance is (7/8)^2 Var C_8.
    c3, fanout 2,4: u cancels in each group, g = mean over 2 groups of C_4(v, s | a_1). A group's mean m(a_1) lies in
    the parameters of its own context, so Var g = ( E Var C_4 + E |m|^2 - |E m|^2 ) / 2.
    """
    first, second = ([worth[word] for word in ("ant", "bee", "cat")] for worth in (ADDED, WORTH))
    together = [(first[i] + second[j], _score(i, j)) for i, j in product(range(3), repeat=2)]
    alone = [[(second[j], _score(i, j)) for j in range(3)] for i in range(3)]
    # E s = 0, so E v s is the covariance
    means = [sum(v * s for v, s in group) / 3 for group in alone]
    inside = fsum(_variance_of_a_covariance(group, 4) for group in alone) / 3
    between = fsum(float(m @ m) for m in means) / 3 - float(sum(means) @ sum(means)) / 9
    expected = {"magrpo": (7 / 8) ** 2 * _variance_of_a_covariance(together, 8), "c3": (inside + between) / 2}
    assert expected["magrpo"] / expected["c3"] == pytest.approx(24.3, abs=0.1)
    for estimator, fanout in (("magrpo", (8, 1)), ("c3", (2, 4))):
        played = play(upstream_decides(*fanout), 3000, seed=3)
        rows = [(message, value) for message, value in credit_of(played, [estimator])[estimator] if message.depth == 2]
        square_M = ((lambda g: g - g.mean(0))(gradients(played, rows)) ** 2).sum(1)
        error = float(square_M.std(ddof=1)) / np.sqrt(len(square_M))
        assert abs(square_M.mean() - expected[estimator]) < 4 * error < 0.2 * expected[estimator]
