"""The statistics behind the diagnostics, as functions of numbers. Axes: A alternatives of one group, G groups, P problems,
Y outcomes.

What scipy has is scipy's: ranks, entropies, random tables, the bootstrap. Intervals resample problems, because the groups
of one problem are alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from configs.intervals import CONFIDENCE

Vector = NDArray[np.float64]
Numbers = NDArray[np.float64]
"""Of any shape."""

RESAMPLES = 2000
RESAMPLES_OF_ROWS = 999
PERMUTATIONS = 999
_BATCH = 256
_CLOSE_TO_ONE = 1 - 1e-9


def interval_of_draws(draws: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's interval of the mean of independent draws; None of fewer than two."""
    if len(draws) < 2:
        return None
    mean = fmean(draws)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(draws) - 1)) * stdev(draws) / sqrt(len(draws))
    return mean - half, mean + half


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float | None
    """NULL, as `high`: fewer than two problems."""
    high: float | None


def mean_over_groups(
    value_G: Sequence[float] | Vector,
    problems: Sequence[Hashable],
    rng: np.random.Generator,
    lower_bounded: bool = False,
) -> Estimate:
    """Return the mean of a figure that every group has. `problems`: of each group. `lower_bounded`: see `of_sums`."""
    terms = np.column_stack([np.asarray(value_G, float), np.ones(len(value_G))])
    return of_sums(terms, problems, _ratio, rng, lower_bounded)


def _ratio(sums: Numbers) -> Numbers:
    return np.asarray(sums[..., 0] / sums[..., 1])


def of_sums(
    terms_RK: Numbers,
    problems: Sequence[Hashable],
    combine: Callable[[Numbers], Numbers],
    rng: np.random.Generator,
    lower_bounded: bool = False,
) -> Estimate:
    """Return a figure that is a function of sums over rows: `combine` of [..., K]. `problems`: of each row.

    `lower_bounded`: it cannot fall below 0, so its distribution has one long tail, for which the interval is corrected.
    """
    sums_PK = np.array([terms_RK[rows].sum(axis=0) for rows in positions(problems)])

    def statistic(drawn: NDArray[np.intp], axis: int = -1) -> Numbers:
        return combine(sums_PK[drawn].sum(axis=-2))

    return _interval(float(combine(terms_RK.sum(axis=0))), len(sums_PK), statistic, rng, RESAMPLES, lower_bounded)


def of_rows(
    problems: Sequence[Hashable], statistic: Callable[[NDArray[np.intp]], Numbers], rng: np.random.Generator
) -> Estimate:
    """Return any other figure: `statistic` is given the positions [..., N] of the rows it is over."""
    of_problem = positions(problems)

    def resampled(drawn: NDArray[np.intp], axis: int = -1) -> Numbers:
        return statistic(np.stack(of_problem)[drawn].reshape(*drawn.shape[:-1], -1))

    def resampled_one(drawn: NDArray[np.intp]) -> float:
        return float(statistic(np.concatenate([of_problem[int(problem)] for problem in drawn])))

    # problems with as many rows each are resampled many at once, which is ten times as fast
    alike = len({len(rows) for rows in of_problem}) == 1
    value = float(statistic(np.arange(len(problems))))
    return _interval(value, len(of_problem), resampled if alike else resampled_one, rng, RESAMPLES_OF_ROWS, False)


def positions(problems: Sequence[Hashable]) -> list[NDArray[np.intp]]:
    """Return the rows of each problem, problems in the order in which they first come."""
    found: dict[Hashable, list[int]] = {}
    for row, problem in enumerate(problems):
        found.setdefault(problem, []).append(row)
    return [np.array(rows) for rows in found.values()]


def _interval(
    value: float,
    clusters: int,
    statistic: Callable[..., object],
    rng: np.random.Generator,
    resamples: int,
    lower_bounded: bool,
) -> Estimate:
    """Return the percentile interval over clusters, its level expanded so that it is not too short for a few of them.

    Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 5.3. Of a lower-bounded figure BCa's, where that is
    defined: it holds such a truth more often, but on noise it strays from 0.
    """
    if clusters < 2:
        return Estimate(value, None, None)
    t = stats.t.ppf((1 + CONFIDENCE) / 2, clusters - 1)
    level = min(1 - 2 * stats.norm.sf(sqrt(clusters / (clusters - 1)) * t), _CLOSE_TO_ONE)
    options = {"confidence_level": level, "batch": _BATCH, "rng": rng}
    data = (np.arange(clusters),)
    resampled = stats.bootstrap(data, statistic, n_resamples=resamples, method="percentile", **options)
    found = resampled.confidence_interval
    if lower_bounded:
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            options |= {"n_resamples": 0, "bootstrap_result": resampled}
            corrected = stats.bootstrap(data, statistic, method="BCa", **options).confidence_interval
        if not (isnan(corrected.low) or isnan(corrected.high)):  # as where all clusters agree
            found = corrected
    return Estimate(value, float(found.low), float(found.high))


def rank_correlation(a: Numbers, b: Numbers) -> Numbers:
    """Return Spearman's rank correlation over the last axis. NaN where one side never varies."""
    ranks_a, ranks_b = (stats.rankdata(side, axis=-1) - (side.shape[-1] + 1) / 2 for side in (a, b))
    scale = np.sqrt((ranks_a**2).sum(axis=-1) * (ranks_b**2).sum(axis=-1))
    nothing = np.full_like(scale, nan)
    return np.asarray(np.divide((ranks_a * ranks_b).sum(axis=-1), scale, out=nothing, where=scale > 0))


def spearman_brown(correlation: float) -> float:
    """Return the reliability of a whole from the correlation of its halves (Spearman and Brown); 0 where they disagree."""
    half = max(correlation, 0.0)
    return 2 * half / (1 + half)


def leave_one_out(count_A: Vector) -> NDArray[np.float64]:
    """Return the matrix [A, A] that turns mean returns into c3's advantages (docs/method.md, section 2), by replay counts."""
    size = len(count_A)
    weights = np.where(np.eye(size, dtype=bool), 0.0, count_A[None, :])
    return np.asarray(np.eye(size) - weights / weights.sum(axis=1, keepdims=True))


def noise_law(count_A: Vector, variance_A: Vector) -> tuple[Vector, float]:
    """Return what replay noise adds to each advantage's variance [A], and to Var_j A_j (ddof 0) inside the group.

        Var(A_j) = v_j + sum_{k != j} (c_k / (C - c_j))^2 v_k,    v_k = Var(Q_k) = s_k^2 / c_k

    The alternatives held fixed. With one s and equal c both are s^2 n / (c (n - 1)).
    """
    credit_AA = leave_one_out(count_A)
    centred_AA = credit_AA - credit_AA.mean(axis=0)
    return credit_AA**2 @ variance_A, float((centred_AA**2 @ variance_A).mean())


def information(table: Numbers) -> float:
    """Return the mutual information of rows and columns of counts [A, Y], in nats, with the Miller-Madow correction.

    I = H(A) + H(Y) - H(A, Y), each entropy plus (cells that occur - 1) / 2N. Below 0 where there is less than chance
    would show.
    """
    return float(_entropy(table.sum(axis=1)) + _entropy(table.sum(axis=0)) - _entropy(table.ravel()))


def _entropy(counts: Numbers) -> Numbers:
    """Return the entropy of counts over the last axis, Miller-Madow corrected."""
    total = counts.sum(axis=-1, keepdims=True)
    plain = special.entr(counts / total).sum(axis=-1)
    return np.asarray(plain + ((counts > 0).sum(axis=-1) - 1) / (2 * total[..., 0]))


def permuted_information(table_AY: Numbers, rng: np.random.Generator) -> Vector:
    """Return the mutual information [PERMUTATIONS] when outcomes are dealt out to the alternatives at random.

    Dealing keeps the sums of rows and columns, and tables of given sums are what scipy.stats.random_table draws.
    """
    rows, columns = table_AY.sum(axis=1).astype(int), table_AY.sum(axis=0).astype(int)
    if len(columns) < 2:
        return np.zeros(PERMUTATIONS)
    dealt = stats.random_table(rows, columns).rvs(PERMUTATIONS, random_state=rng)
    return np.asarray(_entropy(rows) + _entropy(columns) - _entropy(dealt.reshape(PERMUTATIONS, -1)))
