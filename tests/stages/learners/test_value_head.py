"""Value heads: they find what can be known from other problems, and nothing of the row they tell."""

from __future__ import annotations

import numpy as np
import pytest

from stages.learners.value_head import cross_fitted

PROBLEMS = [f"p{index % 20}" for index in range(200)]
ONES = np.ones(200)


def _features(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(200, 12)).astype(np.float32)


def test_what_the_features_tell_of_other_problems_is_found() -> None:
    feature_ND = _features()
    return_N = np.clip(feature_ND[:, 0].astype(float) * 2 - feature_ND[:, 3] + 5, 1, 9)
    expected_N = cross_fitted(feature_ND, return_N, ONES, PROBLEMS, folds=5)
    assert np.corrcoef(expected_N, return_N)[0, 1] > 0.97
    assert expected_N.min() >= 1 and expected_N.max() <= 9  # a line would go on beyond what was ever earned


def test_a_row_is_told_without_its_own_problem_s_returns() -> None:
    feature_ND, draw = _features(), np.random.default_rng(1)
    return_N = draw.normal(size=200)
    before_N = cross_fitted(feature_ND, return_N, ONES, PROBLEMS, folds=10)
    mine = np.array([problem == "p7" for problem in PROBLEMS])
    return_N[mine] += 100 * draw.normal(size=mine.sum())  # its own returns change beyond measure
    after_N = cross_fitted(feature_ND, return_N, ONES, PROBLEMS, folds=10)
    np.testing.assert_array_equal(after_N[mine], before_N[mine])
    assert (after_N[~mine] != before_N[~mine]).any()


def test_noise_is_not_handed_back() -> None:
    # a head fitted on its own rows would correlate with them: 12 features, 200 rows, about .25
    correlations = []
    for seed in range(8):
        return_N = np.random.default_rng(100 + seed).normal(size=200)
        expected_N = cross_fitted(_features(seed), return_N, ONES, PROBLEMS, folds=5)
        correlations.append(np.corrcoef(expected_N, return_N)[0, 1])
    assert np.mean(correlations) < 0.05


def test_missing_returns_are_told_but_not_learned_from() -> None:
    feature_ND = _features()
    return_N = feature_ND[:, 0].astype(float)
    return_N[::7] = np.nan
    expected_N = cross_fitted(feature_ND, return_N, ONES, PROBLEMS, folds=5)
    assert np.corrcoef(expected_N, feature_ND[:, 0])[0, 1] > 0.99


def test_more_replays_weigh_more() -> None:
    feature_ND = np.ones((4, 1), dtype=np.float32)
    expected_N = cross_fitted(feature_ND, np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 3.0, 1, 1]), list("aabb"), 2)
    np.testing.assert_allclose(expected_N, [0.0, 0.0, 0.75, 0.75], atol=1e-6)


@pytest.mark.parametrize("returns", [[1.0, 2.0], [np.nan, np.nan]])
def test_nothing_is_expected_of_one_problem_or_of_no_return(returns: list[float]) -> None:
    problems = ["a", "a"] if returns[0] == 1.0 else ["a", "b"]
    assert np.isnan(cross_fitted(np.ones((2, 1), np.float32), np.array(returns), np.ones(2), problems, 5)).all()
