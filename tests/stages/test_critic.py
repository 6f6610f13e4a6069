"""The critic stage: values are told by heads fitted on other problems, cached like any stage, and read by three estimators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.credit import AdvantagesConfig
from configs.errors import ConfigError
from pipeline.commands.verify import verify
from stages import critic
from store.artifacts.artifact import Row
from store.disk.layout import Layout
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of

LEARNED = ("mappo", "value_assisted", "value_only")


def _round(store: Path, estimator: str) -> PlayedRound:
    return drive(store, config_of("duo", "tree", advantages=AdvantagesConfig(estimator=estimator)))


def _values(round: PlayedRound) -> dict[str, Row]:
    return {row["decision_id"]: row for row in round.rows("critic_values")}


@pytest.mark.parametrize("estimator", LEARNED)
def test_a_round_is_credited_by_learned_values(store: Path, estimator: str) -> None:
    round = _round(store, estimator)
    assert round.made == [
        "problems",
        "rollout",
        "freeze",
        "sample",
        "replay",
        "grade",
        "critic",
        "advantages",
        "update",
    ]
    values = _values(round)
    credited = {row["decision_id"]: row for row in round.rows("advantages")}
    assert set(values) == set(credited)
    for name, row in credited.items():
        told = values[name]
        siblings = [values[k]["action_value"] for k, other in credited.items() if other["state_id"] == row["state_id"]]
        others = (sum(siblings) - told["action_value"]) / (len(siblings) - 1)
        expected = {
            "mappo": row["mean_return"] - told["state_value"],
            "value_assisted": row["mean_return"] - others,
            "value_only": told["action_value"] - others,
        }[estimator]
        assert row["advantage"] == pytest.approx(expected, abs=1e-12)
    assert len(round.rows("update_rows")) == len(credited)
    assert drive_on(resolver_of(store, "test", 1)).made == []
    assert [finding for _, finding in verify(Layout(store)) if finding] == []


def test_every_role_has_a_head_of_its_own_and_siblings_share_a_state_s_value(store: Path) -> None:
    round = _round(store, "mappo")
    by_state: dict[str, set[float]] = {}
    for row in round.rows("advantages"):
        by_state.setdefault(row["state_id"], set()).add(
            round.by_id("critic_values", "decision_id")[row["decision_id"]]["state_value"]
        )
    assert all(len(told) == 1 for told in by_state.values())
    assert len({value for told in by_state.values() for value in told}) > 1


def test_a_problem_s_own_returns_do_not_reach_its_values(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = critic.stored_returns

    def turned(artifacts: list[object]) -> list[Row]:
        rows = read(artifacts)  # type: ignore[arg-type]
        mine = rows[0]["problem_id"]
        return [{**row, "mean_return": 7.0} if row["problem_id"] == mine else row for row in rows]

    folds = {"critic": {"folds": 1000}}  # as many as there are problems
    config = config_of("duo", "tree", advantages=AdvantagesConfig(estimator="mappo"))
    config = type(config).model_validate({**config.model_dump(), **folds})
    plain = _values(drive(store / "two", config))
    monkeypatch.setattr(critic, "stored_returns", turned)
    changed = _values(drive(store / "three", config))
    first = next(iter(plain.values()))["problem_id"]
    assert plain.keys() == changed.keys()
    mine = [name for name, row in plain.items() if row["problem_id"] == first]
    assert all(plain[name] == changed[name] for name in mine)
    assert np.mean([plain[name] != changed[name] for name in plain if name not in mine]) > 0.9


@pytest.mark.parametrize("estimator", LEARNED)
def test_a_message_at_a_state_that_nobody_froze_has_no_value_and_no_advantage(store: Path, estimator: str) -> None:
    # fanout 2,2,1: the last role's messages under the siblings of a logged one have a return, but no sibling and no context
    config = config_of("trio", "tree", advantages=AdvantagesConfig(estimator=estimator))
    plan = config.plan.model_copy(update={"fanout": (2, 2, 1), "budget": 4})
    round = drive(store, config.model_copy(update={"plan": plan}))
    frozen = {row["state_id"] for row in round.rows("contexts")}
    strange = [row for row in round.rows("advantages") if row["state_id"] not in frozen]
    assert strange and {row["advantage"] for row in strange} == {None}
    assert {row["decision_id"] for row in strange}.isdisjoint(_values(round))


def test_other_folds_make_the_critic_again_and_nothing_before_it(store: Path) -> None:
    config = _round(store, "value_only").config
    again = drive(store, config.model_copy(update={"critic": config.critic.model_copy(update={"folds": 2})}))
    assert again.made == ["critic", "advantages", "update"]


def test_other_estimators_have_no_critic(store: Path) -> None:
    round = _round(store, "c3")
    assert "critic" not in round.made
    with pytest.raises(
        ConfigError, match=r"critic: only some estimators read learned values, and advantages\.estimator is c3"
    ):
        resolver_of(store, "test", 1).list_with("critic")
