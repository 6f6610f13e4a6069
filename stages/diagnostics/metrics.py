"""The diagnostics of one role, figure by figure, from its groups (docs/method.md, section 6).

Every figure is a row of the diagnostics table: a value with its interval, and beside it the best that can be shown against
a noisy target and what an estimate without information would show. A figure without a value has the reason in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.diagnostics.figure import Figure
from stages.diagnostics.groups import Group, noise_inside, outcome_table, split_half, target_noise
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
from store.disk.ids import seed_from

LAST_ROLE = "the last role's messages are graded as they are"
NO_GROUP = "no state holds two or more of its messages"
ASK_FOR_ONE = "needs independent replays (--replays 1)"
ASK_FOR_TWO = "needs two independent replays of each message (--replays 2)"
ONE_EACH = "needs two replays of each message: a larger plan, or --replays"
OTHER_ESTIMATOR = "the noise law is not of this estimator, grouping or normalisation"
CONSTANT = "the advantages, or what they are held against, are all equal"

_LOWER_BOUNDED = ("wasted_replays", "variance", "variance_noise")
"""Means that cannot fall below 0."""


@dataclass(frozen=True)
class RoleGroups:
    """Hold the groups of one role, and what the figures must know of the round besides."""

    role: str
    groups: Sequence[Group]
    is_last: bool
    """Whether no role speaks after it."""
    obeys_noise_law: bool
    """Whether its advantages are those that the noise law is of: leave-one-out by state, unnormalised."""
    seed: int
    """Of the bootstrap and the permutations; each figure draws for itself."""

    @cached_property
    def credited(self) -> list[Group]:
        """Groups of two or more returns in which every advantage is defined."""
        return [group for group in self.groups if group.credited]

    def rng(self, name: str) -> np.random.Generator:
        """Return the random numbers of one figure."""
        return np.random.default_rng(seed_from("diagnose", self.seed, self.role, name))

    def mean(self, name: str, values: Sequence[float] | Vector, used: Sequence[Group]) -> Estimate:
        """Return the mean over groups of what each of `used` has, with its interval."""
        problems = [group.problem_id for group in used]
        return mean_over_groups(values, problems, self.rng(name), name in _LOWER_BOUNDED)

    def figure(
        self, name: str, estimate: Estimate, used: Sequence[Group], replays_from: str = "round", **held: Any
    ) -> Figure:
        """Return a figure over the groups `used`. `held`: what it is held against, by the fields of Figure."""
        return Figure(
            name,
            self.role,
            count=len(used),
            left_out=len(self.groups) - len(used),
            problems=len({group.problem_id for group in used}),
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            replays_from=replays_from,
            **held,
        )

    def without(self, name: str, reason: str) -> Figure:
        """Return a figure that has no value, with the reason."""
        return Figure(name, self.role, count=0, left_out=len(self.groups), problems=0, reason=reason)

    def why_not(self, otherwise: str) -> str:
        """Return why a figure that needs continued groups has no value; `otherwise`: there are groups, but too little of them."""
        if self.is_last:
            return LAST_ROLE
        return otherwise if self.credited else NO_GROUP


def role_figures(of: RoleGroups) -> list[Figure]:
    """Return every figure of a role."""
    return [
        wasted_replays(of),
        variance(of),
        *variance_parts(of),
        variance_confirmed(of),
        reliability(of),
        *fidelity(of),
        *pooled_ranks(of),
        pooled_rmse(of),
        *influence(of),
    ]


def wasted_replays(of: RoleGroups) -> Figure:
    """Return the share of groups whose returns all tie: evaluations that bought no gradient."""
    used = [group for group in of.groups if len(group.alternatives) >= 2]
    if not used:
        return of.without("wasted_replays", NO_GROUP)
    tied = [float(group.tied) for group in used]
    return of.figure("wasted_replays", of.mean("wasted_replays", tied, used), used, bound=0.0)


def variance(of: RoleGroups) -> Figure:
    """Return Var_j A_j (ddof 0) inside a group."""
    if not of.credited:
        return of.without("variance", NO_GROUP)
    total = [float(group.advantage_A.var()) for group in of.credited]
    return of.figure("variance", of.mean("variance", total, of.credited), of.credited)


def variance_parts(of: RoleGroups) -> list[Figure]:
    """Return what of the variance is replay noise and what signal, by the noise law, where the noise is known."""
    names = ("variance_noise", "variance_signal")
    if not of.credited:
        return [of.without(name, NO_GROUP) for name in names]
    if not of.obeys_noise_law:
        return [of.without(name, OTHER_ESTIMATOR) for name in names]
    noises = {id(group): 0.0 if of.is_last else noise_inside(group) for group in of.credited}
    used = [group for group in of.credited if noises[id(group)] is not None]
    if not used:
        return [of.without(name, ONE_EACH) for name in names]
    noise = [noises[id(group)] or 0.0 for group in used]
    signal = [float(group.advantage_A.var()) - each for group, each in zip(used, noise, strict=True)]
    replays_from = _replays_from(used)
    return [
        of.figure(name, of.mean(name, values, used), used, replays_from=replays_from, null_value=null)
        for name, values, null in zip(names, (noise, signal), (None, 0.0), strict=True)
    ]


def variance_confirmed(of: RoleGroups) -> Figure:
    """Return the covariance of advantages and independent Q - V: their noise is independent, so it has none."""
    name = "variance_confirmed"
    if not of.credited:
        return of.without(name, NO_GROUP)
    measured = [group for group in of.credited if group.replayed(1)]
    if of.is_last or not measured:
        return of.without(name, LAST_ROLE if of.is_last else ASK_FOR_ONE)
    if not of.obeys_noise_law:  # a share of that estimator's variance, not of another's
        return of.without(name, OTHER_ESTIMATOR)
    shared = [float(np.mean((group.advantage_A - group.advantage_A.mean()) * group.target_A)) for group in measured]
    return of.figure(name, of.mean(name, shared, measured), measured, null_value=0.0, replays_from="both")


def reliability(of: RoleGroups) -> Figure:
    """Return how well the round's own replays agree with each other: split-half correlation, corrected by Spearman-Brown."""
    used = [group for group in of.credited if group.continued(2)]
    if of.is_last or not used:
        return of.without("reliability", of.why_not(ONE_EACH))
    found = [split_half([each.replays for each in group.alternatives]) for group in used]
    return _spearman_brown_figure(of, "reliability", found, used, "round")


def fidelity(of: RoleGroups) -> list[Figure]:
    """Return the rank correlation in a group between advantages and independent Q - V, and its ceiling."""
    name, ceiling = "fidelity", "fidelity_ceiling"
    used = [group for group in of.credited if group.replayed(1)]
    if of.is_last or not used:
        why = of.why_not(ASK_FOR_ONE)
        return [of.without(name, why), of.without(ceiling, why)]
    found = [float(rank_correlation(group.advantage_A, group.independent_A)) for group in used]
    tied = sum(isnan(each) for each in found)
    estimate = of.mean(name, [0.0 if isnan(each) else each for each in found], used)
    figure = of.figure(name, estimate, used, null_value=0.0, tied=tied, replays_from="both")
    twice = [group for group in used if group.replayed(2)]
    if not twice:
        return [figure, of.without(ceiling, ASK_FOR_TWO)]
    agreeing = [split_half([each.independent_replays for each in group.alternatives]) for group in twice]
    limit = _spearman_brown_figure(of, ceiling, agreeing, twice, "independent", sqrt)
    return [replace(figure, bound=limit.value), limit]


def pooled_ranks(of: RoleGroups) -> list[Figure]:
    """Return rank correlation and slope over all states together, where the size of an advantage counts too."""
    names = ("pooled_rank", "pooled_slope")
    used = [group for group in of.credited if group.replayed(1)]
    if of.is_last or not used:
        return [of.without(name, of.why_not(ASK_FOR_ONE)) for name in names]
    estimate, target, problems = _pooled(used)
    if np.ptp(estimate) == 0 or np.ptp(target) == 0:
        return [of.without(name, CONSTANT) for name in names]

    def rank(chosen: NDArray[np.intp]) -> Numbers:
        return np.nan_to_num(rank_correlation(estimate[chosen], target[chosen]))  # resampled to a tie: none

    ranks = of_rows(problems, rank, of.rng(names[0]))
    terms = np.column_stack([np.ones_like(estimate), estimate, target, estimate**2, estimate * target])
    slope = of_sums(terms, problems, _slope, of.rng(names[1]))
    return [
        of.figure(names[0], ranks, used, null_value=0.0, replays_from="both"),
        of.figure(names[1], slope, used, bound=1.0, null_value=0.0, replays_from="both"),
    ]


def pooled_rmse(of: RoleGroups) -> Figure:
    """Return the root mean squared error of advantages against independent Q - V, over all states together."""
    name = "pooled_rmse"
    used = [group for group in of.credited if group.replayed(1)]
    if of.is_last or not used:
        return of.without(name, of.why_not(ASK_FOR_ONE))
    estimate, target, problems = _pooled(used)
    errors = np.column_stack([np.ones_like(estimate), (estimate - target) ** 2])
    rmse = of_sums(errors, problems, _root_mean, of.rng(name), lower_bounded=True)
    silent = float(np.sqrt(np.mean(target**2)))
    return of.figure(name, rmse, used, bound=target_noise(used), null_value=silent, replays_from="both")


def influence(of: RoleGroups) -> list[Figure]:
    """Return I(J; Y | h): how much the alternative says about the outcome, by reward and by parsed answer, in nats.

    Miller and Madow's correction is not enough for a handful of replays, so what outcomes dealt out at random show is
    taken off: a message without information has an influence of 0 on average. The corrected figure alone comes third.
    """
    names = ("influence", "influence_answer", "influence_miller_madow")
    held = [group for group in of.groups if len(group.alternatives) >= 2]
    used = [group for group in held if all(len(each.outcomes) >= 2 for each in group.alternatives)]
    if of.is_last or not used:
        return [of.without(name, of.why_not(ONE_EACH)) for name in names]
    by_reward, by_answer = (_influence(of, name, used, which) for name, which in zip(names[:2], (0, 1), strict=True))
    plain = of.mean(names[2], by_reward.found_G, used)
    corrected = of.figure(
        names[2],
        plain,
        used,
        null_value=by_reward.chance,
        null_p=by_reward.figure.null_p,
        replays_from=_replays_from(used),
    )
    return [by_reward.figure, by_answer.figure, corrected]


class _Influence(NamedTuple):
    figure: Figure
    found_G: Vector
    """Mutual information of each group, Miller-Madow corrected."""
    chance: float
    """What outcomes dealt out at random show on average."""


def _influence(of: RoleGroups, name: str, used: Sequence[Group], which: int) -> _Influence:
    tables = [outcome_table(group, which) for group in used]
    rng = of.rng(f"{name} permuted")
    found_G = np.array([information(table) for table in tables])
    null_GB = np.array([permuted_information(table, rng) for table in tables])
    null_B = null_GB.mean(axis=0)
    # draws that come to the same may differ in the last bit
    as_much = int((null_B >= found_G.mean() - 1e-9).sum())
    p = (as_much + 1) / (PERMUTATIONS + 1)
    estimate = of.mean(name, found_G - null_GB.mean(axis=1), used)
    figure = of.figure(name, estimate, used, null_value=0.0, null_p=p, replays_from=_replays_from(used))
    return _Influence(figure, found_G, float(null_B.mean()))


def _replays_from(used: Sequence[Group]) -> str:
    """Return whose replays a figure is computed from when it uses all there are."""
    return "both" if any(group.replayed(1) for group in used) else "round"


def _pooled(used: Sequence[Group]) -> tuple[Vector, Vector, list[Hashable]]:
    """Return advantages, independent Q - V and problem of every alternative."""
    estimate = np.concatenate([group.advantage_A for group in used])
    target = np.concatenate([group.target_A for group in used])
    return estimate, target, [group.problem_id for group in used for _ in group.alternatives]


def _spearman_brown_figure(
    of: RoleGroups,
    name: str,
    found: Sequence[float],
    used: Sequence[Group],
    replays_from: str,
    then: Callable[[float], float] = float,
) -> Figure:
    """Return the groups' mean split-half correlation, corrected by Spearman and Brown, then transformed by `then`.

    The result rises with the mean, so the ends of the interval are transformed alike.
    """
    mean = of.mean(name, [0.0 if isnan(each) else each for each in found], used)
    low, high = (None if end is None else then(spearman_brown(end)) for end in (mean.low, mean.high))
    estimate = Estimate(then(spearman_brown(mean.value)), low, high)
    tied = sum(isnan(each) for each in found)
    return of.figure(name, estimate, used, bound=1.0, null_value=0.0, tied=tied, replays_from=replays_from)


def _slope(sums: Numbers) -> Numbers:
    """Return the slope of the target on the estimate: how much of an advantage is there again. Sums of 1, x, y, x^2, xy."""
    count, x, y, xx, xy = np.moveaxis(sums, -1, 0)
    spread = xx - x * x / count
    found: Numbers = np.divide(xy - x * y / count, spread, out=np.zeros_like(spread), where=spread > 0)
    return found


def _root_mean(sums: Numbers) -> Numbers:
    found: Numbers = np.sqrt(sums[..., 1] / sums[..., 0])
    return found
