"""Whether 95% intervals hold the truth as often as they say, and what the figures show where there is nothing to see.

Problems are drawn from a large enumerated world, so that what is repeated is what the intervals are over. Groups are drawn
from its true probabilities and handed to the functions the stage calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, product
from math import factorial, prod

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from stages.diagnostics.figure import Figure
from stages.diagnostics.groups import Alternative, Group
from stages.diagnostics.metrics import (
    RoleGroups,
    fidelity,
    influence,
    pooled_ranks,
    pooled_rmse,
    reliability,
    variance,
    variance_confirmed,
    variance_parts,
    wasted_replays,
)
from stages.diagnostics.statistics import leave_one_out
from store.artifacts.artifact import Row
from tests.support.worlds import Truth, duo

REPEATS = 300
PROMISED = 0.93
"""The issue's: coverage that a binomial test puts below this fails."""


@dataclass(frozen=True)
class Problem:
    """A problem seen from its Reasoner: how likely each word is, and what the Actor then earns."""

    pi: np.ndarray
    """Of each word, [W]."""
    outcomes: np.ndarray
    """Of each last word after it, [W, W]."""
    rewards: np.ndarray
    """Of each last word, [W]."""


@cache
def world(problems: int = 200, spread: float = 1.5) -> tuple[Problem, ...]:
    """An enumerated duo."""
    config = duo(problems=problems, world_seed=5, spread=spread)
    truth = Truth(config)
    from stages.problem_sources.registry import load_problems

    found = []
    for problem in load_problems(config.problems):
        after = [truth.outcomes(problem, {"reasoner": word}) for word in truth.words]
        table = np.array([[outcomes[last] for last in truth.words] for outcomes in after])
        found.append(Problem(truth.pi(problem, {}), table, truth.rewards(problem)))
    return tuple(found)


def draw(
    problem: Problem, name: int, rng: np.random.Generator, size: int, replays: int, again: int, deaf: bool = False
) -> Group:
    """One group: alternatives, the round's replays of each, and independent ones. deaf: the Actor ignores the Reasoner."""
    words = rng.choice(len(problem.pi), size, p=problem.pi)
    after = [problem.pi @ problem.outcomes if deaf else problem.outcomes[word] for word in words]
    rows = [rng.choice(len(problem.rewards), replays + again, p=chances / chances.sum()) for chances in after]
    earned = [[float(problem.rewards[last]) for last in row] for row in rows]
    returns = [_mean(each[:replays]) for each in earned]
    credit = leave_one_out(np.full(size, float(replays))) @ np.array(returns)
    if len(set(returns)) == 1:
        credit[:] = 0.0  # as c3.sql: a tie is exactly 0
    return Group(
        name,
        tuple(
            Alternative(
                float(a), q, replays, tuple(each[:replays]), tuple(each[replays:]), tuple((r, str(r)) for r in each)
            )
            for a, q, each in zip(credit, returns, earned, strict=True)
        ),
    )


def _mean(rewards: Sequence[float]) -> float:
    return rewards[0] if min(rewards) == max(rewards) else sum(sorted(rewards)) / len(rewards)


def sampled(seed: int, problems: int, size: int, replays: int, again: int, deaf: bool = False) -> list[Group]:
    """A round: problems of the world, and two groups of each, as a plan with two states a problem has them."""
    rng = np.random.default_rng([7, seed])
    chosen = rng.integers(len(world()), size=problems)
    return [
        draw(world()[problem], name, rng, size, replays, again, deaf)
        for name, problem in enumerate(chosen)
        for _ in range(2)
    ]


def told(groups: Sequence[Group], seed: int, *wanted: Callable[[RoleGroups], Figure | list[Figure]]) -> dict[str, Row]:
    """The figures of these functions, by name."""
    role = RoleGroups("reasoner", groups, is_last=False, obeys_noise_law=True, seed=seed)
    found = [each for function in wanted for each in _listed(function(role))]
    return {figure.name: figure.row() for figure in found}


def _listed(found: Figure | list[Figure]) -> list[Figure]:
    return found if isinstance(found, list) else [found]


def _returns(chances: np.ndarray, rewards: np.ndarray, replays: int) -> dict[float, float]:
    """The distribution of a mean of so many rewards."""
    found: dict[float, float] = {}
    for lasts in combinations_with_replacement(range(len(rewards)), replays):
        ways = factorial(replays) / prod(factorial(lasts.count(last)) for last in set(lasts))
        value = _mean([float(rewards[last]) for last in lasts])
        found[value] = found.get(value, 0.0) + ways * prod(chances[last] for last in lasts)
    return found


def _mean_sign(first: dict[float, float], second: dict[float, float]) -> float:
    return sum(p * q * np.sign(a - b) for (a, p), (b, q) in product(first.items(), second.items()))


def true_fidelity(replays: int, again: int) -> float:
    """Of pairs, by enumeration: the rank correlation of two is the product of two signs, independent given the pair."""
    total = 0.0
    for problem in world():
        own, fresh = ([_returns(row, problem.rewards, count) for row in problem.outcomes] for count in (replays, again))
        for i, j in product(range(len(problem.pi)), repeat=2):
            agreed = _mean_sign(own[i], own[j]) * _mean_sign(fresh[i], fresh[j])
            total += problem.pi[i] * problem.pi[j] * agreed
    return total / len(world())


def true_variances(replays: int) -> tuple[float, float]:
    """Of pairs, by enumeration: the signal and the noise in Var_j A_j. A = +-(Q_1 - Q_2), so both are those of a difference."""
    signal = noise = 0.0
    for problem in world():
        q = problem.outcomes @ problem.rewards
        s = problem.outcomes @ problem.rewards**2 - q**2
        for i, j in product(range(len(q)), repeat=2):
            chance = problem.pi[i] * problem.pi[j]
            signal += chance * (q[i] - q[j]) ** 2
            noise += chance * (s[i] + s[j]) / replays
    return signal / len(world()), noise / len(world())


def covered(rows: Sequence[Row], truth: float) -> int:
    """How many of the intervals hold it."""
    return sum(row["low"] <= truth <= row["high"] for row in rows)


def assert_covers(name: str, rows: Sequence[Row], truth: float) -> None:
    """Fails where a binomial test puts the coverage below what is promised."""
    count = covered(rows, truth)
    centre = np.mean([row["value"] for row in rows])
    print(f"{name}: {count} of {len(rows)} intervals hold {truth:.4f} (mean value {centre:.4f})", flush=True)
    assert binomtest(count, len(rows), PROMISED, alternative="less").pvalue >= 0.05, f"{name}: {count} of {len(rows)}"


@pytest.mark.slow
@pytest.mark.parametrize("problems", [8, 16, 60])
def test_intervals_of_pairs_hold_the_enumerated_truth_as_often_as_they_say(problems: int) -> None:
    rounds = [sampled(seed, problems, 2, 4, 4) for seed in range(REPEATS)]
    found = [
        told(groups, seed, fidelity, variance, variance_parts, variance_confirmed) for seed, groups in enumerate(rounds)
    ]
    signal, noise = true_variances(4)
    truths = {
        "fidelity": true_fidelity(4, 4),
        "variance": signal + noise,
        "variance_noise": noise,
        "variance_signal": signal,
        "variance_confirmed": signal,
    }
    for name, truth in truths.items():
        rows = [row[name] for row in found]
        values = np.array([row["value"] for row in rows])
        print(f"{name}, {problems} problems: {covered(rows, truth)} of {REPEATS} intervals hold {truth:.4f}")
        assert abs(values.mean() - truth) < 3.5 * values.std() / REPEATS**0.5, f"{name} is biased"
        # squares have a tail that few problems do not show: what their intervals hold is in docs/results-credit.md
        if name == "fidelity" or problems == 60:
            assert_covers(name, rows, truth)


@pytest.mark.slow
def test_intervals_over_larger_groups_hold_what_eight_thousand_groups_show(monkeypatch: pytest.MonkeyPatch) -> None:
    large = [draw(world()[i % 200], i % 200, np.random.default_rng([9, i]), 4, 2, 4) for i in range(8_000)]
    with monkeypatch.context() as patch:
        patch.setattr("stages.diagnostics.statistics.RESAMPLES_OF_ROWS", 9)  # of the truth no interval is wanted
        truths = {
            name: row["value"]
            for name, row in told(large, 0, wasted_replays, fidelity, pooled_ranks, pooled_rmse).items()
        }
    rounds = [sampled(seed, 24, 4, 2, 4) for seed in range(REPEATS)]
    found = [
        told(groups, seed, wasted_replays, fidelity, pooled_ranks, pooled_rmse) for seed, groups in enumerate(rounds)
    ]
    for name in ("wasted_replays", "fidelity", "pooled_rank", "pooled_slope", "pooled_rmse"):
        assert_covers(name, [rows[name] for rows in found], truths[name])


@pytest.mark.slow
def test_an_ignored_message_is_found_to_matter_no_more_often_than_it_should() -> None:
    rounds = [sampled(seed, 12, 4, 2, 1, deaf=True) for seed in range(REPEATS)]
    found = [told(groups, seed, influence) for seed, groups in enumerate(rounds)]
    for name in ("influence", "influence_answer"):
        p = np.array([rows[name]["null_p"] for rows in found])
        for level in (0.01, 0.05, 0.1):
            count = int((p <= level).sum())
            print(f"{name}: {count} of {REPEATS} below {level}")
            assert binomtest(count, REPEATS, level, alternative="greater").pvalue >= 0.01
        assert kstest(p, "uniform").pvalue > 0.01
        assert_covers(name, [rows[name] for rows in found], 0.0)
    # the correction alone is not enough where there are three replays each: it would read as influence
    plain = np.mean([rows["influence_miller_madow"]["value"] for rows in found])
    print(f"Miller-Madow alone: {plain:.3f} nats; less chance: {np.mean([r['influence']['value'] for r in found]):.4f}")
    assert plain > 0.01
    assert abs(np.mean([rows["influence"]["value"] for rows in found])) < 0.01


@pytest.mark.slow
def test_a_message_that_matters_is_found_to() -> None:
    rounds = [sampled(seed, 24, 4, 4, 4) for seed in range(50)]
    found = [told(groups, seed, influence)["influence"] for seed, groups in enumerate(rounds)]
    assert sum(row["null_p"] <= 0.05 for row in found) >= 45
    assert np.mean([row["value"] for row in found]) > 0.02


@pytest.mark.slow
def test_on_noise_no_figure_looks_good() -> None:
    wanted = (variance, variance_parts, variance_confirmed, reliability, fidelity, pooled_ranks, pooled_rmse, influence)
    rounds = [sampled(seed, 24, 4, 4, 4, deaf=True) for seed in range(REPEATS)]
    found = [told(groups, seed, *wanted) for seed, groups in enumerate(rounds)]
    signed = ("fidelity", "pooled_rank", "pooled_slope", "variance_signal", "variance_confirmed", "influence")
    for name in signed:
        values = np.array([rows[name]["value"] for rows in found])
        assert abs(values.mean()) < 3.5 * values.std() / REPEATS**0.5, name
    for name in ("fidelity", "pooled_rank", "pooled_slope", "influence"):
        assert_covers(f"{name} on noise", [rows[name] for rows in found], 0.0)
    for name in (*signed, "reliability", "fidelity_ceiling"):
        looks_good = sum(rows[name]["low"] > 0 for rows in found)
        print(f"{name} on noise: {looks_good} of {REPEATS} above 0")
        assert binomtest(looks_good, REPEATS, 0.025, alternative="greater").pvalue >= 0.01
    worse = sum(rows["pooled_rmse"]["value"] > rows["pooled_rmse"]["null_value"] for rows in found)
    print(f"RMSE on noise: {worse} of {REPEATS} worse than saying nothing")
    assert worse == REPEATS


def _knowing(name: int, q: np.ndarray, fresh: Sequence[Sequence[float]]) -> Group:
    """A group whose advantages are exact."""
    credit = leave_one_out(np.ones(len(q))) @ q
    return Group(
        name, tuple(Alternative(float(a), 0.0, 1, (0.0,), tuple(r)) for a, r in zip(credit, fresh, strict=True))
    )


@pytest.mark.slow
def test_an_estimate_that_knows_the_truth_stays_within_the_bounds() -> None:
    rng = np.random.default_rng(3)
    exact = []
    for i in range(3000):
        problem = world()[i % 200]
        words = rng.choice(3, 4, p=problem.pi)
        fresh = [[float(r) for r in rng.choice(problem.rewards, 4, p=problem.outcomes[word])] for word in words]
        exact.append(_knowing(i % 200, (problem.outcomes @ problem.rewards)[words], fresh))
    rows = told(exact, 0, fidelity, pooled_ranks, pooled_rmse)
    print({name: (row["value"], row["bound"]) for name, row in rows.items()})
    assert rows["pooled_rmse"]["value"] == pytest.approx(rows["pooled_rmse"]["bound"], rel=0.03)
    assert rows["pooled_slope"]["low"] <= 1 <= rows["pooled_slope"]["high"]
    # r^2 = SB(half), so half = r^2 / (2 - r^2): between that and the bound, because groups differ in what there is to see
    bound = rows["fidelity"]["bound"]
    assert bound**2 / (2 - bound**2) < rows["fidelity"]["value"] < bound


def test_where_groups_are_alike_the_bound_is_what_the_truth_shows() -> None:
    rng = np.random.default_rng(4)
    exact = []
    for i in range(1500):
        q = rng.permutation(np.arange(8.0))
        exact.append(_knowing(i, q, (q[:, None] + rng.normal(0, 4, (8, 6))).tolist()))
    row = told(exact, 0, fidelity)["fidelity"]
    assert row["value"] == pytest.approx(row["bound"], abs=0.02)
    assert 0.6 < row["value"] < 0.95


def test_a_few_intervals_of_pairs_hold_the_enumerated_truth() -> None:
    # the same in small, for every run of the tests: 40 repeats
    found = [told(sampled(seed, 16, 2, 2, 2), seed, fidelity)["fidelity"] for seed in range(40)]
    assert_covers("fidelity", found, true_fidelity(2, 2))
