"""Every estimator's properties, and the formula of each that has an oracle in plain Python, over random trees, rewards,
replay counts, missing rewards and both groupings.

An estimator that is only a .sql file is held to the properties that need no oracle. An oracle computes with fractions, so
it is exact; what it is compared within is rounding, in units of the largest reward.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import isfinite, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from store.artifacts.artifact import Row
from store.queries.advantages import advantages, open_returns
from store.queries.estimators import estimators
from tests.support.stored_rounds import Ending, role_of, samples, solo_samples, state_of, valued

Exact = Fraction | None
Credit = Mapping[str, tuple[str, Exact, Exact]]
"""Decision -> its group, mean return and baseline."""
GroupOf = Callable[[str], str]
Oracle = Callable[[Sequence[Ending], GroupOf], Credit]

PLAIN = st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.2, 0.3])
EXTREME = st.sampled_from([1e300, -1e300, 1e-300, 5e-324, -2.5, 1e17, 1.0, 0.0])
ANY = st.floats(-1e6, 1e6)


@st.composite
def endings(draw: st.DrawFn) -> list[Ending]:
    """The evaluations of one or two problems: trees of any shape, of one to three roles."""
    depth = draw(st.sampled_from([1, 2, 2, 3]))
    reward = draw(st.sampled_from([PLAIN, EXTREME, ANY, st.just(draw(ANY))]))
    leaves: list[tuple[str, ...]] = []

    def grow(path: tuple[str, ...]) -> None:
        if len(path) == depth:
            leaves.extend([path] * draw(st.sampled_from([1, 1, 2, 3])))
            return
        for number in range(draw(st.sampled_from([1, 2, 2, 3]))):
            parent = path[-1] if path else f"{problem}:"
            grow((*path, f"{parent}{'.' if path else ''}{number}"))

    for problem in draw(st.sampled_from(["p", "pq"])):  # noqa: B007 (grow reads it)
        grow(())
    partial = draw(st.booleans())  # as in the replay plan, where an evaluation counts towards one message
    found = []
    for number, path in enumerate(leaves):
        credited = path[draw(st.integers(0, depth - 1)) :][:1] if partial and draw(st.booleans()) else path
        found.append(Ending(f"e{number}", path, credited, draw(st.one_of(reward, reward, st.none()))))
    return found


def _mean(values: Sequence[Fraction]) -> Exact:
    return sum(values, Fraction(0)) / len(values) if values else None


def _returns(taken: Sequence[Ending]) -> dict[str, list[Fraction]]:
    """Alternative -> the rewards that count towards it; empty where none is scored."""
    found: dict[str, list[Fraction]] = {}
    for ending in taken:
        for name in ending.credited:
            scored = found.setdefault(name, [])
            if ending.reward is not None:
                scored.append(Fraction(ending.reward))
    return found


def _context_of(decision: str) -> str:
    """In the hand-made samples a context is all that is seen at one depth of a problem."""
    return f"{decision.partition(':')[0]}/seen at depth {decision.count('.') + 1}"


GROUPINGS: Mapping[str, GroupOf] = {"state": state_of, "context": _context_of}
"""What advantages.group_by may be."""
grouping = st.sampled_from(sorted(GROUPINGS))


def _c3(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    returns = _returns(taken)
    return {
        j: (
            group_of(j),
            _mean(own),
            _mean([r for k, others in returns.items() if k != j and group_of(k) == group_of(j) for r in others]),
        )
        for j, own in returns.items()
    }


def _problem_and_role(decision: str) -> str:
    return f"{decision.partition(':')[0]}/{role_of(decision)}"


def _no_replay(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    return _c3(taken, _problem_and_role)


def _full_mean(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    means = {j: _mean(own) for j, own in _returns(taken).items()}
    found = {}
    for j, q in means.items():
        group = [m for k, m in means.items() if group_of(k) == group_of(j) and m is not None]
        found[j] = (group_of(j), q, _mean(group) if len(group) > 1 else None)
    return found


def _global_mean(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    means = {j: _mean(own) for j, own in _returns(taken).items()}
    batch = [m for m in means.values() if m is not None]
    return {j: (group_of(j), q, _mean(batch) if len(batch) > 1 else None) for j, q in means.items()}


def _by_problem(taken: Sequence[Ending], problem: str) -> list[Ending]:
    return [e for e in taken if e.messages[0].partition(":")[0] == problem and e.reward is not None]


def _magrpo(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    found = {}
    for j, own in _returns(taken).items():
        rewards = [Fraction(e.reward or 0) for e in _by_problem(taken, j.partition(":")[0])]
        found[j] = (_problem_and_role(j), _mean(own), _mean(rewards) if len(rewards) > 1 else None)
    return found


def _rloo(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    found = {}
    for j, own in _returns(taken).items():
        others = [e for e in _by_problem(taken, j.partition(":")[0]) if j not in e.messages]
        found[j] = (_problem_and_role(j), _mean(own), _mean([Fraction(e.reward or 0) for e in others]))
    return found


def _solo(taken: Sequence[Ending]) -> dict[str, list[float | None]]:
    """Rewards of replays without a message, at every state but the last role's: any numbers do, so some of the round's."""
    depth = max(len(e.messages) for e in taken)
    found: dict[str, list[float | None]] = {}
    for ending in reversed(taken):
        for name in ending.messages[: depth - 1]:
            found.setdefault(state_of(name), []).append(ending.reward)
    return {state: rewards[: len(rewards) // 2 + 1] for state, rewards in found.items()}


def _ccpo(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    alone = _solo(sorted(taken, key=lambda e: e.episode_id))
    return {
        j: (group_of(j), _mean(own), _mean([Fraction(r) for r in alone.get(state_of(j), []) if r is not None]))
        for j, own in _returns(taken).items()
    }


def _told(taken: Sequence[Ending]) -> dict[str, tuple[float | None, float | None]]:
    """What value heads expected, V and Q of every message: any numbers do, so some of the round's; some of them nothing."""
    rewards = [ending.reward for ending in sorted(taken, key=lambda e: e.episode_id)]
    names = sorted({name for ending in taken for name in ending.messages})
    states = sorted({state_of(name) for name in names})
    return {
        name: (rewards[states.index(state_of(name)) % len(rewards)], rewards[index % len(rewards)])
        for index, name in enumerate(names)
    }


def _exact(value: float | None) -> Exact:
    return None if value is None else Fraction(value)


def _mappo(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    told = _told(taken)
    return {j: (group_of(j), _mean(own), _exact(told[j][0])) for j, own in _returns(taken).items()}


def _others_told(taken: Sequence[Ending], j: str, group_of: GroupOf) -> Exact:
    told = {k: _told(taken)[k][1] for k in _returns(taken) if group_of(k) == group_of(j)}
    others = [Fraction(value) for k, value in told.items() if k != j and value is not None]
    return None if told[j] is None else _mean(others)


def _value_assisted(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    return {j: (group_of(j), _mean(own), _others_told(taken, j, group_of)) for j, own in _returns(taken).items()}


def _value_only(taken: Sequence[Ending], group_of: GroupOf) -> Credit:
    return {j: (group_of(j), _exact(_told(taken)[j][1]), _others_told(taken, j, group_of)) for j in _returns(taken)}


ORACLES: Mapping[str, Oracle] = {
    "c3": _c3,
    "ccpo": _ccpo,
    "full_mean": _full_mean,
    "global_mean": _global_mean,
    "no_replay": _no_replay,
    "magrpo": _magrpo,
    "rloo": _rloo,
    "mappo": _mappo,
    "value_assisted": _value_assisted,
    "value_only": _value_only,
}


def test_every_oracle_has_its_estimator_and_an_estimator_without_one_is_named() -> None:
    assert set(ORACLES) <= set(estimators())
    without = [name for name in estimators() if name not in ORACLES]
    if without:
        pytest.skip(f"no oracle in this file: {', '.join(without)}; held to their rows and the other properties")


NORMALISATIONS = ("none", "group_std", "batch_std")
Tables = Mapping[str, list[Row]]
"""Normalisation -> the advantages table."""


def _made(
    parts: Sequence[Sequence[Ending]],
    estimator: str,
    normalisations: Sequence[str] = NORMALISATIONS,
    group_by: str = "state",
) -> Tables:
    """The advantages by one estimator."""
    with TemporaryDirectory() as folder:
        solo = solo_samples(
            Path(folder), _solo(sorted((e for part in parts for e in part), key=lambda e: e.episode_id))
        )
        told = valued(Path(folder), _told([ending for part in parts for ending in part]))
        connection = open_returns([samples(Path(folder), parts), told], group_by, [solo])
        return {name: advantages(connection, estimator, name).to_arrow_table().to_pylist() for name in normalisations}


def _size(taken: Sequence[Ending]) -> float:
    return max((abs(ending.reward) for ending in taken if ending.reward is not None), default=0.0)


def _quick(examples: int) -> settings:
    # not shrunk: a failure names its samples, and shrinking them would take minutes
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )


def _thorough(examples: int) -> settings:
    """As many cases, others each time where C3_OTHER_CASES is set; a failure prints what makes it again."""
    other = "C3_OTHER_CASES" in os.environ
    return settings(_quick(examples), derandomize=not other, database=None, print_blob=True)


@pytest.mark.parametrize("estimator", ORACLES)
@_quick(7)
@given(taken=endings(), group_by=grouping)
def test_an_estimator_is_its_formula(estimator: str, taken: list[Ending], group_by: str) -> None:
    _is_its_formula(estimator, taken, group_by)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ORACLES)
@_thorough(30)
@given(taken=endings(), group_by=grouping)
def test_an_estimator_is_its_formula_in_many_more_cases(estimator: str, taken: list[Ending], group_by: str) -> None:
    _is_its_formula(estimator, taken, group_by)


def _is_its_formula(estimator: str, taken: list[Ending], group_by: str) -> None:
    tables, size = _made([taken], estimator, group_by=group_by), _size(taken)
    expected = ORACLES[estimator](taken, GROUPINGS[group_by])
    _equal_the_formula(tables["none"], expected, 1e-14 * size)
    for normalisation in NORMALISATIONS[1:]:
        _equal_the_normalised_formula(tables[normalisation], expected, normalisation, size)


def _equal_the_formula(table: Sequence[Row], expected: Credit, within: float) -> None:
    rows = {row["decision_id"]: row for row in table}
    assert len(rows) == len(table) and set(rows) == set(expected)
    for name, (group, q, baseline) in expected.items():
        row = rows[name]
        assert row["group_id"] == group
        if row["estimator"] != "value_only":  # which shows the mean return and credits by what it expected
            assert (row["mean_return"] is None) == (q is None)
        assert (row["advantage"] is None) == (q is None or baseline is None)
        if row["advantage"] is not None:
            assert q is not None and baseline is not None
            assert isfinite(row["advantage"])
            assert row["baseline"] == pytest.approx(float(baseline), rel=0, abs=within)
            assert row["advantage"] == pytest.approx(float(q - baseline), rel=0, abs=2 * within)


def _spread(values: Sequence[Fraction]) -> tuple[Fraction, Fraction, float]:
    """Mean, unit (the largest), and standard deviation (ddof 0) in that unit."""
    unit = max((abs(value) for value in values), default=Fraction(0)) or Fraction(1)
    mean = sum(values, Fraction(0)) / len(values)
    return mean, unit, sqrt(sum(((value - mean) / unit) ** 2 for value in values) / len(values))


def _equal_the_normalised_formula(table: Sequence[Row], expected: Credit, normalisation: str, size: float) -> None:
    """Where the advantages differ by more than rounding; everywhere finite, and NULL only where undefined."""
    rows = {row["decision_id"]: row for row in table}
    raw = {
        name: (group if normalisation == "group_std" else "batch", q - baseline)
        for name, (group, q, baseline) in expected.items()
        if q is not None and baseline is not None
    }
    assert {name for name, row in rows.items() if row["advantage"] is not None} == set(raw)
    together: dict[str, list[Fraction]] = defaultdict(list)
    for group, value in raw.values():
        together[group].append(value)
    for name, (group, value) in raw.items():
        found = rows[name]["advantage"]
        assert isfinite(found)
        mean, unit, spread = _spread(together[group])
        noise = float(min(Fraction(size) / unit, Fraction(10) ** 300)) * 1e-13  # of an advantage, in the same unit
        if noise < 1e-3 * spread:
            shift = mean if normalisation == "group_std" else 0
            assert found == pytest.approx(float((value - shift) / unit) / spread, abs=20 * noise / spread)


@_quick(15)
@given(taken=endings(), estimator=st.sampled_from(estimators()), group_by=grouping, data=st.data())
def test_neither_the_order_of_rows_nor_the_layout_of_parts_touches_the_last_bit(
    taken: list[Ending], estimator: str, group_by: str, data: st.DataObject
) -> None:
    _no_order_touches_the_last_bit(taken, estimator, group_by, data)


@pytest.mark.slow
@_thorough(60)
@given(taken=endings(), estimator=st.sampled_from(estimators()), group_by=grouping, data=st.data())
def test_the_last_bit_is_touched_in_none_of_many_more_cases(
    taken: list[Ending], estimator: str, group_by: str, data: st.DataObject
) -> None:
    _no_order_touches_the_last_bit(taken, estimator, group_by, data)


def _no_order_touches_the_last_bit(taken: list[Ending], estimator: str, group_by: str, data: st.DataObject) -> None:
    shuffled, cut = data.draw(st.permutations(taken)), data.draw(st.integers(0, len(taken)))
    normalisation = [data.draw(st.sampled_from(NORMALISATIONS))]
    apart = _made([shuffled[:cut], shuffled[cut:]], estimator, normalisation, group_by)
    assert apart == _made([taken], estimator, normalisation, group_by)


@pytest.mark.parametrize("estimator", estimators())
@_quick(3)
@given(taken=endings(), reward=st.one_of(EXTREME, ANY), group_by=grouping)
def test_where_all_rewards_are_equal_every_advantage_is_exactly_zero(
    estimator: str, taken: list[Ending], reward: float, group_by: str
) -> None:
    _equal_rewards_give_zero(estimator, taken, reward, group_by)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", estimators())
@_thorough(10)
@given(taken=endings(), reward=st.one_of(EXTREME, ANY), group_by=grouping)
def test_equal_rewards_give_zero_in_many_more_cases(
    estimator: str, taken: list[Ending], reward: float, group_by: str
) -> None:
    _equal_rewards_give_zero(estimator, taken, reward, group_by)


def _equal_rewards_give_zero(estimator: str, taken: list[Ending], reward: float, group_by: str) -> None:
    equal = [Ending(e.episode_id, e.messages, e.credited, None if e.reward is None else reward) for e in taken]
    for normalisation, table in _made([equal], estimator, group_by=group_by).items():
        assert {row["advantage"] for row in table} <= {0.0, None}, normalisation


@_quick(10)
@given(taken=endings(), estimator=st.sampled_from(estimators()), group_by=grouping)
def test_every_message_that_counts_has_one_row_whose_credit_is_a_finite_number_or_unknown(
    taken: list[Ending], estimator: str, group_by: str
) -> None:
    returns = _returns(taken)
    for table in _made([taken], estimator, group_by=group_by).values():
        assert sorted(row["decision_id"] for row in table) == sorted(returns)
        assert all(row["advantage"] is None or isfinite(row["advantage"]) for row in table)
        assert {row["decision_id"]: row["replay_count"] for row in table} == {j: len(own) for j, own in returns.items()}


def test_a_z_score_makes_c3_and_the_plain_mean_the_same_numbers() -> None:
    # docs/method.md, section 4: at equal replay counts the factor n/(n-1) cancels; at unequal ones it does not
    rewards = {"p:0": [1.0, 0.0], "p:1": [0.25, 0.5], "p:2": [0.0, 0.0]}
    equal = [Ending(f"{name}/{i}", (name,), (name,), r) for name, both in rewards.items() for i, r in enumerate(both)]
    for taken, same in ((equal, True), ([*equal, Ending("more", ("p:0",), ("p:0",), 0.5)], False)):
        scores = [[row["advantage"] for row in _made([taken], name)["group_std"]] for name in ("c3", "full_mean")]
        assert (scores[0] == pytest.approx(scores[1], abs=1e-12)) is same


def test_a_z_score_of_two_alternatives_is_a_sign() -> None:
    taken = [Ending("a", ("p:0",), ("p:0",), 0.5), Ending("b", ("p:1",), ("p:1",), 0.499)]
    scores = [row["advantage"] for row in _made([taken], "c3")["group_std"]]
    assert scores == pytest.approx([1.0, -1.0], abs=1e-12)
