"""`c3 compare`: every estimator on one round's samples, and how well each holds against fresh replays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, pvariance

import pytest
from scipy.stats import pearsonr, spearmanr

from configs.errors import StoreError
from pipeline.commands.compare import compare
from pipeline.rounds.stored import stored_artifacts
from store.queries.advantages import advantages, open_returns
from store.queries.comparison import comparable, compare_estimators
from tests.support.rounds import PlayedRound, config_of, drive
from tests.support.stored_rounds import Ending, samples

Played = Callable[[str, str], PlayedRound]


def _by_decision(round: PlayedRound, estimator: str) -> dict[str, tuple[str, float | None]]:
    connection = open_returns(stored_artifacts(round.resolver), "state")
    rows = advantages(connection, estimator, "none").to_arrow_table().to_pylist()
    return {row["decision_id"]: (row["role"], row["advantage"]) for row in rows}


@pytest.mark.parametrize(("world", "plan"), [("duo", "tree"), ("trio", "replay"), ("duo", "episodes")])
def test_the_figures_are_those_of_the_estimators_own_advantages(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    found = compare(round.session)
    credit = {name: _by_decision(round, name) for name in comparable(("ablated_replay", "critic_values"))}
    roles = {role for role, _ in credit["c3"].values()}
    assert {(row["estimator"], row["role"]) for row in found.by_estimator} == {(n, r) for n in credit for r in roles}
    for row in found.by_estimator:
        values = [value for role, value in credit[row["estimator"]].values() if role == row["role"]]
        defined = [value for value in values if value is not None]
        assert (row["alternatives"], row["undefined"]) == (len(values), len(values) - len(defined))
        if defined:
            assert row["mean"] == pytest.approx(fmean(defined), abs=1e-12)
            assert row["variance"] == pytest.approx(pvariance(defined), abs=1e-12)
    for row in found.by_pair:
        both = [
            (value, credit[row["other"]][name][1])
            for name, (role, value) in credit[row["estimator"]].items()
            if role == row["role"] and value is not None and credit[row["other"]][name][1] is not None
        ]
        assert row["alternatives"] == len(both)
        assert row["sign_agreement"] == pytest.approx(fmean((a > 0) - (a < 0) == (b > 0) - (b < 0) for a, b in both))
        if row["correlation"] is not None:
            assert row["correlation"] == pytest.approx(pearsonr(*zip(*both, strict=True)).statistic, abs=1e-9)


def test_only_roles_whose_messages_are_replayed_more_than_once_have_a_fidelity(played: Played) -> None:
    assert {row["role"] for row in compare(played("trio", "tree").session).fidelity} == {"reasoner", "actor"}
    assert {row["role"] for row in compare(played("trio", "replay").session).fidelity} == {"reasoner"}
    assert compare(played("trio", "episodes").session).fidelity == []


def test_fidelity_is_the_rank_correlation_of_two_independent_halves(tmp_path: Path) -> None:
    # three alternatives of the first role, each answered twice; the halves go by the answers' ids in order
    rewards = {"p:0": (1.0, 0.9), "p:1": (0.5, 0.0), "p:2": (0.0, 0.4), "q:0": (0.0, 1.0), "q:1": (1.0, 0.0)}
    endings = [
        Ending(f"{first}/{i}", (first, f"{first}.{i}"), (first, f"{first}.{i}"), reward)
        for first, both in rewards.items()
        for i, reward in enumerate(both)
    ]
    found = compare_estimators([samples(tmp_path, [endings])], "state").fidelity
    halves = [[both[half] for both in rewards.values()] for half in (0, 1)]
    in_group = [spearmanr(halves[0][:3], halves[1][:3]).statistic, -1.0]  # p: +1/2 by hand; q: the halves disagree
    assert in_group[0] == pytest.approx(0.5)
    c3 = next(row for row in found if row["estimator"] == "c3")
    assert (c3["role"], c3["groups"]) == ("first", 2)
    assert c3["spearman"] == pytest.approx(fmean(in_group))
    credited = [_leave_one_out(values[:3]) + _leave_one_out(values[3:]) for values in halves]
    assert c3["pooled_spearman"] == pytest.approx(spearmanr(*credited).statistic)
    error = fmean((a - b) ** 2 for a, b in zip(*credited, strict=True)) ** 0.5
    assert c3["rmse"] == pytest.approx(error)
    assert {row["estimator"] for row in found} == set(comparable(("ablated_replay", "critic_values")))


def _leave_one_out(values: list[float]) -> list[float]:
    return [value - (sum(values) - value) / (len(values) - 1) for value in values]


def test_comparing_makes_and_records_nothing(played: Played) -> None:
    round = played("duo", "tree")
    before = {path: path.stat().st_mtime_ns for path in round.store.rglob("*")}
    compare(round.session)
    assert {path: path.stat().st_mtime_ns for path in round.store.rglob("*")} == before


def test_a_round_that_has_not_been_graded_cannot_be_compared(store: Path) -> None:
    round = drive(store, config_of("duo", "tree"), until="replay")
    with pytest.raises(StoreError, match=r"has no grade with its present .* `c3 run iteration .* --until grade` first"):
        compare(round.session)


def test_a_tied_group_counts_as_no_correlation(tmp_path: Path) -> None:
    rewards = {"p:0": (1.0, 1.0), "p:1": (0.0, 0.0), "q:0": (1.0, 1.0), "q:1": (1.0, 0.0)}
    endings = [
        Ending(f"{first}/{i}", (first, f"{first}.{i}"), (first, f"{first}.{i}"), reward)
        for first, both in rewards.items()
        for i, reward in enumerate(both)
    ]
    found = compare_estimators([samples(tmp_path, [endings])], "state").fidelity
    by_group: dict[str, float] = defaultdict(float, p=1.0, q=0.0)
    assert next(row["spearman"] for row in found if row["estimator"] == "c3") == fmean(by_group.values())
