"""The diagnostics of one role, figure by figure, from its groups (docs/method.md, section 6).

Every figure is a row of the diagnostics table: a value with its interval, and beside it the best that can be shown against
a noisy target and what an estimate that says nothing would show. What cannot be told has the reason in place of the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, sqrt

import numpy as np
from numpy.typing import NDArray

from stages.diagnostics.groups import Group, halves, noise_inside, outcome_table, target_noise
from stages.diagnostics.statistics import (
    PERMUTATIONS,
    Estimate,
    Numbers,
    Vector,
    information,
    mean_over_groups,
    of_rows,
    of_sums,
    permuted_information,
    rank_correlation,
    spearman_brown,
)
from store.artifacts.artifact import Row
from store.disk.ids import seed_from

LAST_ROLE = "the last role's messages are graded as they are"
NO_GROUP = "no state holds two or more of its messages"
ASK_FOR_ONE = "needs independent replays (--replays 1)"
ASK_FOR_TWO = "needs two independent replays of each message (--replays 2)"
ONE_EACH = "needs two replays of each message: a larger plan, or --replays"
OTHER_ESTIMATOR = "the noise law is of estimator c3 by state, without normalisation"
CONSTANT = "the advantages, or what they are held against, are all equal"

_LOWER_BOUNDED = ("wasted_replays", "variance", "variance_noise")
"""Means that cannot fall below 0."""


def figures(role: str, groups: Sequence[Group], last: bool, lawful: bool, seed: int) -> list[Row]:
    """Every figure of a role.

    last: no role speaks after it. lawful: its advantages are c3's, unnormalised. seed: of the bootstrap and the
    permutations; each figure draws for itself.
    """
    role_figures = RoleFigures(role, groups, last, lawful, seed)
    return [
        *role_figures.wasted(),
        *role_figures.variance(),
        *role_figures.reliability(),
        *role_figures.fidelity(),
        *role_figures.pooled(),
        *role_figures.influence(),
    ]


class RoleFigures:
    """The figures of one role; arguments as of `figures`."""

    def __init__(self, role: str, groups: Sequence[Group], last: bool, lawful: bool, seed: int) -> None:
        self._role = role
        self._groups = groups
        self._last = last
        self._lawful = lawful
        self._seed = seed
        self._credited = [group for group in groups if group.credited]

    def wasted(self) -> list[Row]:
        """Groups whose returns all tie: evaluations that bought no gradient."""
        used = [group for group in self._groups if len(group.alternatives) >= 2]
        if not used:
            return [self._without("wasted_replays", NO_GROUP)]
        tied = [float(group.tied) for group in used]
        return [self._figure("wasted_replays", self._mean("wasted_replays", tied, used), used, bound=0.0)]

    def variance(self) -> list[Row]:
        """Var_j A_j (ddof 0) inside a group, and what of it is replay noise and what signal."""
        used, name = self._credited, "variance"
        if not used:
            names = (name, f"{name}_noise", f"{name}_signal", f"{name}_confirmed")
            return [self._without(each, NO_GROUP) for each in names]
        total = [float(group.advantage_A.var()) for group in used]
        rows = [self._figure(name, self._mean(name, total, used), used)]
        rows += self._split()
        name = "variance_confirmed"
        measured = [group for group in used if group.replayed(1)]
        if self._last or not measured:
            return [*rows, self._without(name, LAST_ROLE if self._last else ASK_FOR_ONE)]
        if not self._lawful:  # a share of c3's variance, not of another's
            return [*rows, self._without(name, OTHER_ESTIMATOR)]
        # the noise of the two is independent, so their covariance has none
        shared = [float(np.mean((group.advantage_A - group.advantage_A.mean()) * group.target_A)) for group in measured]
        estimate = self._mean(name, shared, measured)
        return [*rows, self._figure(name, estimate, measured, null_value=0.0, samples="both")]

    def _split(self) -> list[Row]:
        """By the law, on the groups whose noise can be told."""
        names = ("variance_noise", "variance_signal")
        if not self._lawful:
            return [self._without(name, OTHER_ESTIMATOR) for name in names]
        noises = {id(group): 0.0 if self._last else noise_inside(group) for group in self._credited}
        used = [group for group in self._credited if noises[id(group)] is not None]
        if not used:
            return [self._without(name, ONE_EACH) for name in names]
        noise = [noises[id(group)] or 0.0 for group in used]
        signal = [float(group.advantage_A.var()) - each for group, each in zip(used, noise, strict=True)]
        samples = "both" if any(group.replayed(1) for group in used) else "round"
        return [
            self._figure(name, self._mean(name, values, used), used, samples=samples, null_value=null)
            for name, values, null in zip(names, (noise, signal), (None, 0.0), strict=True)
        ]

    def reliability(self) -> list[Row]:
        """How well the round's own replays agree with each other: halves, stepped up to the whole by Spearman-Brown."""
        name = "reliability"
        used = [group for group in self._credited if group.continued(2)]
        if self._last or not used:
            return [self._without(name, self._why_not(ONE_EACH))]
        found = [halves([each.replays for each in group.alternatives]) for group in used]
        return [self._spearman_brown(name, found, used, "round")]

    def fidelity(self) -> list[Row]:
        """Rank correlation in a group between the round's advantages and independent Q - V, and its ceiling."""
        name, ceiling = "fidelity", "fidelity_ceiling"
        used = [group for group in self._credited if group.replayed(1)]
        if self._last or not used:
            why = self._why_not(ASK_FOR_ONE)
            return [self._without(name, why), self._without(ceiling, why)]
        found = [float(rank_correlation(group.advantage_A, group.independent_A)) for group in used]
        tied = sum(isnan(each) for each in found)
        estimate = self._mean(name, [0.0 if isnan(each) else each for each in found], used)
        row = self._figure(name, estimate, used, null_value=0.0, tied=tied, samples="both")
        twice = [group for group in used if group.replayed(2)]
        if not twice:
            return [row, self._without(ceiling, ASK_FOR_TWO)]
        agreeing = [halves([each.independent_replays for each in group.alternatives]) for group in twice]
        limit = self._spearman_brown(ceiling, agreeing, twice, "independent", sqrt)
        return [{**row, "bound": limit["value"]}, limit]

    def pooled(self) -> list[Row]:
        """Over all states together, where the size of an advantage counts too: rank correlation, slope and RMSE."""
        names = ("pooled_rank", "pooled_slope", "pooled_rmse")
        used = [group for group in self._credited if group.replayed(1)]
        if self._last or not used:
            return [self._without(name, self._why_not(ASK_FOR_ONE)) for name in names]
        estimate = np.concatenate([group.advantage_A for group in used])
        target = np.concatenate([group.target_A for group in used])
        problems = [group.problem_id for group in used for _ in group.alternatives]
        rows = []
        if np.ptp(estimate) == 0 or np.ptp(target) == 0:
            rows += [self._without(name, CONSTANT) for name in names[:2]]
        else:

            def rank(chosen: NDArray[np.intp]) -> Numbers:
                return np.nan_to_num(rank_correlation(estimate[chosen], target[chosen]))  # resampled to a tie: none

            ranks = of_rows(problems, rank, self._rng(names[0]))
            rows.append(self._figure(names[0], ranks, used, null_value=0.0, samples="both"))
            terms = np.column_stack([np.ones_like(estimate), estimate, target, estimate**2, estimate * target])
            slope = of_sums(terms, problems, _slope, self._rng(names[1]))
            rows.append(self._figure(names[1], slope, used, bound=1.0, null_value=0.0, samples="both"))
        errors = np.column_stack([np.ones_like(estimate), (estimate - target) ** 2])
        rmse = of_sums(errors, problems, _root_mean, self._rng(names[2]), leans=True)
        silent = float(np.sqrt(np.mean(target**2)))
        return [
            *rows,
            self._figure(names[2], rmse, used, bound=target_noise(used), null_value=silent, samples="both"),
        ]

    def influence(self) -> list[Row]:
        """I(J; Y | h): what the alternative tells of the outcome, by reward and by parsed answer, in nats.

        Miller and Madow's correction is not enough for a handful of replays, so what outcomes dealt out at random show is
        taken off: a message that says nothing has an influence of 0 on average. The corrected figure alone comes third.
        """
        names = ("influence", "influence_answer", "influence_miller_madow")
        told = [group for group in self._groups if len(group.alternatives) >= 2]
        used = [group for group in told if all(len(each.outcomes) >= 2 for each in group.alternatives)]
        if self._last or not used:
            return [self._without(name, self._why_not(ONE_EACH)) for name in names]
        samples = "both" if any(group.replayed(1) for group in used) else "round"
        rows = []
        for name, which in zip(names[:2], (0, 1), strict=True):
            found_G, null_GB = self._information(name, used, which)
            null_B = null_GB.mean(axis=0)
            # draws that come to the same may differ in the last bit
            as_much = int((null_B >= found_G.mean() - 1e-9).sum())
            p = (as_much + 1) / (PERMUTATIONS + 1)
            estimate = self._mean(name, found_G - null_GB.mean(axis=1), used)
            rows.append(self._figure(name, estimate, used, null_value=0.0, null_p=p, samples=samples))
            if name == names[0]:
                plain = self._mean(names[2], found_G, used)
                chance = float(null_B.mean())
                last_row = self._figure(names[2], plain, used, null_value=chance, null_p=p, samples=samples)
        return [*rows, last_row]

    def _information(self, name: str, used: Sequence[Group], which: int) -> tuple[Vector, Numbers]:
        """Of each group, and of its permutations."""
        tables = [outcome_table(group, which) for group in used]
        rng = self._rng(f"{name} permuted")
        found = np.array([information(table) for table in tables])
        return found, np.array([permuted_information(table, rng) for table in tables])

    def _why_not(self, otherwise: str) -> str:
        if self._last:
            return LAST_ROLE
        return otherwise if self._credited else NO_GROUP

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng(seed_from("diagnose", self._seed, self._role, name))

    def _mean(self, name: str, values: Sequence[float] | Vector, used: Sequence[Group]) -> Estimate:
        return mean_over_groups(values, [group.problem_id for group in used], self._rng(name), name in _LOWER_BOUNDED)

    def _spearman_brown(
        self,
        name: str,
        found: Sequence[float],
        used: Sequence[Group],
        samples: str,
        then: Callable[[float], float] = float,
    ) -> Row:
        """Spearman-Brown over the groups' mean half-correlation. It rises with it, so the ends of the interval go along."""
        mean = self._mean(name, [0.0 if isnan(each) else each for each in found], used)
        low, high = (None if end is None else then(spearman_brown(end)) for end in (mean.low, mean.high))
        estimate = Estimate(then(spearman_brown(mean.value)), low, high)
        tied = sum(isnan(each) for each in found)
        return self._figure(name, estimate, used, bound=1.0, null_value=0.0, tied=tied, samples=samples)

    def _figure(
        self,
        name: str,
        estimate: Estimate,
        used: Sequence[Group],
        bound: float | None = None,
        null_value: float | None = None,
        null_p: float | None = None,
        tied: int | None = None,
        samples: str = "round",
    ) -> Row:
        return {
            "name": name,
            "role": self._role,
            "value": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "bound": bound,
            "null_value": null_value,
            "null_p": null_p,
            "count": len(used),
            "tied": tied,
            "left_out": len(self._groups) - len(used),
            "problems": len({group.problem_id for group in used}),
            "samples": samples,
            "reason": None,
        }

    def _without(self, name: str, reason: str) -> Row:
        nothing = Estimate(0.0, None, None)
        return {**self._figure(name, nothing, []), "value": None, "samples": None, "reason": reason}


def _slope(sums: Numbers) -> Numbers:
    """Of the target on the estimate: how much of an advantage is there again. Sums of 1, x, y, x^2, xy."""
    count, x, y, xx, xy = np.moveaxis(sums, -1, 0)
    spread = xx - x * x / count
    found: Numbers = np.divide(xy - x * y / count, spread, out=np.zeros_like(spread), where=spread > 0)
    return found


def _root_mean(sums: Numbers) -> Numbers:
    found: Numbers = np.sqrt(sums[..., 1] / sums[..., 0])
    return found
