"""Groups: what is known of the alternatives of one state, and what follows from it without any other group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan
from statistics import fmean

import numpy as np
from scipy import stats

from stages.diagnostics.statistics import Numbers, Vector, leave_one_out, noise_law, rank_correlation
from store.artifacts.artifact import Row


@dataclass(frozen=True)
class Alternative:
    """One alternative: its credit, and the evaluations of what followed it."""

    advantage: float
    """The round's own; NaN where it is undefined."""
    mean_return: float
    replay_count: int
    replays: tuple[float, ...]
    """Rewards of the round's independent continuations, each the mean over its scored leaves."""
    independent_replays: tuple[float, ...] = ()
    """Rewards of the independent replays bought to diagnose."""
    outcomes: tuple[tuple[float, str | None], ...] = ()
    """Reward and parsed answer of one leaf of each continuation, the round's first."""
    branches: bool = False
    """Whether a continuation of the round has more leaves than one."""


@dataclass(frozen=True)
class Group:
    """The alternatives of one state that have a return."""

    problem_id: Hashable
    alternatives: tuple[Alternative, ...]

    @cached_property
    def advantage_A(self) -> Vector:
        """The round's advantages, [A]."""
        return np.array([alternative.advantage for alternative in self.alternatives])

    @cached_property
    def independent_A(self) -> Vector:
        """Mean reward of the independent replays, [A]."""
        return np.array([_mean(alternative.independent_replays) for alternative in self.alternatives])

    @cached_property
    def target_A(self) -> Vector:
        """Independent Q - V: c3's advantage from the independent replays alone, [A]."""
        counts = np.array([len(alternative.independent_replays) for alternative in self.alternatives], float)
        return np.asarray(leave_one_out(counts) @ self.independent_A)

    @property
    def credited(self) -> bool:
        """Whether two or more have a return, and all of those an advantage."""
        return len(self.alternatives) >= 2 and not np.isnan(self.advantage_A).any()

    def replayed(self, times: int) -> bool:
        """Return whether each has so many independent replays."""
        return all(len(alternative.independent_replays) >= times for alternative in self.alternatives)

    def continued(self, times: int) -> bool:
        """Return whether each has so many independent continuations of the round's own."""
        return all(len(alternative.replays) >= times for alternative in self.alternatives)

    @property
    def tied(self) -> bool:
        """Whether all return the same."""
        return len({alternative.mean_return for alternative in self.alternatives}) == 1


def groups_of(alternatives: Iterable[Row], units: Iterable[Row]) -> Mapping[str, Sequence[Group]]:
    """Return the groups of each role. Rows as the files in store/sql/diagnose give them, in their order."""
    continued: defaultdict[str, list[Row]] = defaultdict(list)
    for unit in units:
        continued[unit["decision_id"]].append(unit)
    states: dict[tuple[str, str, str], list[Alternative]] = {}
    for row in alternatives:
        state = states.setdefault((row["role"], row["problem_id"], row["state_id"]), [])
        if row["mean_return"] is not None:
            state.append(_alternative(row, continued[row["decision_id"]]))
    found: defaultdict[str, list[Group]] = defaultdict(list)
    for (role, problem_id, _), members in states.items():
        found[role].append(Group(problem_id, tuple(members)))
    return found


def _alternative(row: Row, units: Sequence[Row]) -> Alternative:
    own = [unit for unit in units if unit["source"] == "round"]
    return Alternative(
        nan if row["advantage"] is None else row["advantage"],
        row["mean_return"],
        row["replay_count"],
        tuple(unit["mean_return"] for unit in own),
        tuple(unit["mean_return"] for unit in units if unit["source"] == "independent"),
        tuple((unit["first_reward"], unit["first_answer"]) for unit in units),
        any(unit["leaves"] > 1 for unit in own),
    )


def split_half(replays_A: Sequence[Sequence[float]]) -> float:
    """Return the rank correlation between the means of every other replay and those of the rest; NaN where one side ties."""
    first, second = (np.array([_mean(replays[half::2]) for replays in replays_A]) for half in (0, 1))
    return float(rank_correlation(first, second))


def noise_inside(group: Group) -> float | None:
    """Return what replay noise adds to the group's Var_j A_j, by the law; None where no alternative has two replays."""
    counts = np.array([alternative.replay_count for alternative in group.alternatives], float)
    variances = _variances(group)
    if variances is None:
        return None
    continuations = np.array([len(alternative.replays) for alternative in group.alternatives])
    return noise_law(counts, variances / continuations)[1]


def _variances(group: Group) -> Vector | None:
    """Return s_j^2 of one continuation of each alternative; an alternative with one only is given the group's."""
    # where the round's replays branch, an independent one (which does not) varies more than they do
    own = any(alternative.branches for alternative in group.alternatives)
    seen = [each.replays if own else (*each.replays, *each.independent_replays) for each in group.alternatives]
    free = np.array([len(replays) - 1 for replays in seen], float)
    if not free.any():
        return None
    squares = np.array([np.var(replays) * len(replays) for replays in seen])
    return np.asarray(np.where(free > 0, squares / np.maximum(free, 1), squares.sum() / free.sum()))


def target_noise(used: Sequence[Group]) -> float | None:
    """Return the root of the mean variance of independent Q - V by the law: the RMSE of an estimate that is exact."""
    found = []
    for group in used:
        if not group.replayed(2):
            return None
        counts = np.array([len(alternative.independent_replays) for alternative in group.alternatives], float)
        variances = np.array([np.var(alternative.independent_replays, ddof=1) for alternative in group.alternatives])
        found.append(noise_law(counts, variances / counts)[0])
    return float(np.sqrt(np.mean(np.concatenate(found))))


def outcome_table(group: Group, which: int) -> Numbers:
    """Return how often each alternative (row) had each outcome (column)."""
    pairs = [(j, outcome[which]) for j, each in enumerate(group.alternatives) for outcome in each.outcomes]
    kinds = {outcome: code for code, outcome in enumerate(dict.fromkeys(outcome for _, outcome in pairs))}
    found: Numbers = stats.contingency.crosstab([j for j, _ in pairs], [kinds[outcome] for _, outcome in pairs]).count
    return found


def _mean(rewards: Sequence[float]) -> float:
    """Return the mean. Whatever the order, equal rewards give equal means: a tie stays a tie."""
    return rewards[0] if min(rewards) == max(rewards) else fmean(rewards)
