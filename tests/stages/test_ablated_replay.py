"""ccpo: returns less what is earned without the message, its solo replays planned, counted and kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.credit import AdvantagesConfig
from configs.errors import ConfigError
from configs.schema import Config
from pipeline.commands.compare import compare
from pipeline.commands.run import check_stage
from pipeline.commands.verify import verify
from pipeline.rounds.cost import round_cost
from pipeline.rounds.plan import first_changed, plan_steps
from pipeline.rounds.warnings import config_warnings
from pipeline.steps import ROUND, round_steps
from stages.problem_sources.protocol import Problem
from store.disk.layout import Layout
from store.queries.catalog_views import query
from store.runs.garbage import garbage
from store.runs.variants import Variant, record_variant
from tests.support.estimator_truth import credit_of, gradients, measure, play, worlds
from tests.support.rounds import PlayedRound, config_of, drive, drive_on, resolver_of, under
from tests.support.stored_rounds import state_of
from tests.support.worlds import Truth

COPIES = 800


def _ccpo(world: str, plan: str, replays: int = 2, **changes: object) -> Config:
    return config_of(world, plan, advantages=AdvantagesConfig(estimator="ccpo", ablated_replays=replays), **changes)


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """The trio's round under ccpo; for reading."""
    return drive(tmp_path_factory.mktemp("ccpo"), _ccpo("trio", "tree"))


@pytest.mark.parametrize("name", ["duo", pytest.param("trio", marks=pytest.mark.slow), "irrelevant"])
def test_it_is_off_by_what_the_state_is_worth_with_the_message_less_what_it_is_worth_without(name: str) -> None:
    world = next(world for world in worlds() if world.name == name)
    played = play(world, COPIES, seed=11)
    named = {id(message): key for key, message in played.messages.items()}
    credit = credit_of(played, ["ccpo"])["ccpo"]
    found = measure(played, credit)
    assert found.bias > 3 * found.bias_noise  # as an estimate of Q - V it is biased ...
    corrected = measure(played, [(m, value - played.excess[state_of(named[id(m)])]) for m, value in credit])
    assert corrected.bias <= 1.5 * corrected.bias_noise < 0.07  # ... by exactly V(h) - V_without(h)
    assert abs(corrected.slope - 1) <= 4 * corrected.slope_error
    # a number of the state alone: the policy gradient of the roles it credits is unbiased
    assert abs(found.gradient_slope - 1) < 4 * found.gradient_slope_error
    assert found.gradient_chance < 8
    assert {message.depth for message, _ in credit} == set(range(1, len(world.truth.order)))
    moved = gradients(played, credit)[:, world.depth_P == len(world.truth.order)]
    assert not moved.any()  # the last role has none


def test_an_advantage_is_the_return_less_the_mean_of_the_states_ablated_replays(trio: PlayedRound) -> None:
    rewards = {row["episode_id"]: row["reward"] for row in trio.rows("rewards", "ablated_grade")}
    state_of = {row["intervention_id"]: row["state_id"] for row in trio.rows("interventions", "ablated_replay")}
    earned: dict[str, list[float]] = {}
    for row in trio.rows("replays", "ablated_replay"):
        earned.setdefault(state_of[row["alternative_id"]], []).append(rewards[row["episode_id"]])
    assert {row["state_id"] for row in trio.rows("advantages") if row["role"] != "verifier"} == set(earned)
    for row in trio.rows("advantages"):
        if row["role"] == "verifier":
            assert (row["baseline"], row["advantage"]) == (None, None)
        else:
            assert row["baseline"] == pytest.approx(np.mean(earned[row["state_id"]]))
            assert row["advantage"] == row["mean_return"] - row["baseline"]
    skipped = {row["role"] for row in trio.rows("update_rows") if row["skipped"] == "undefined advantage"}
    assert skipped == {"verifier"}


def test_what_is_earned_without_a_message_is_what_the_world_says(tmp_path: Path) -> None:
    round = drive(tmp_path, _ccpo("duo", "tree", 400), until="ablated_grade")
    truth = Truth(round.config)
    problems = {row["problem_id"]: Problem(**row) for row in round.rows("problems")}
    rewards = {row["episode_id"]: row["reward"] for row in round.rows("rewards", "ablated_grade")}
    for intervention in round.rows("interventions", "ablated_replay"):
        drawn = [
            rewards[row["episode_id"]]
            for row in round.rows("replays", "ablated_replay")
            if row["alternative_id"] == intervention["intervention_id"]
        ]
        expected = truth.v(problems[intervention["problem_id"]], {"reasoner": ""})
        assert len(drawn) == 400
        assert abs(np.mean(drawn) - expected) < 4 * np.std(drawn, ddof=1) / 20 + 1e-9


@pytest.mark.parametrize(
    ("world", "plan", "per_problem"),
    [
        pytest.param("duo", "tree", 2, marks=pytest.mark.slow),  # the first role's one state, two replays
        ("trio", "tree", 6),  # and the second role's two
        pytest.param("trio", "replay", 2, marks=pytest.mark.slow),  # the plan examines the first role and the last
        pytest.param(
            "diamond", "tree", 6, marks=pytest.mark.slow
        ),  # the two roles in the middle, at 1 and 2 states: the first has one draw
        pytest.param(
            "four_turns", "episodes", 2, marks=pytest.mark.slow
        ),  # of whole episodes only the first role's messages share a state
        ("solo", "tree", 0),  # nobody speaks before the last role
    ],
)
def test_the_plan_counts_exactly_what_is_spent(tmp_path: Path, world: str, plan: str, per_problem: int) -> None:
    config = _ccpo(world, plan)
    round = drive(tmp_path, config, until="advantages")
    cost = round_cost(config, 1)
    assert cost.ablated_evaluations == len(round.rows("replays", "ablated_replay")) == 4 * per_problem
    assert cost.evaluations == len(round.rows("rewards"))
    assert cost.messages == len(round.rows("decisions"))
    assert cost.stages.get("ablated_replay", 0) == len(round.rows("decisions", "ablated_replay"))
    assert [finding for _, finding in verify(Layout(tmp_path)) if finding] == []


def test_other_estimators_have_no_such_step_and_their_keys_do_not_know_of_it(trio: PlayedRound) -> None:
    asked = trio.config
    plain = asked.model_copy(update={"advantages": AdvantagesConfig()})
    more = asked.model_copy(update={"advantages": AdvantagesConfig(ablated_replays=9)})
    assert round_steps(plain) == ROUND
    keys = [
        {look.step.name: look.key for look in under(trio.resolver, config).resolve_steps().steps}
        for config in (plain, more)
    ]
    assert keys[0] == keys[1]
    with_solo = {look.step.name: look.key for look in trio.resolver.resolve_steps().steps}
    assert set(with_solo) == {*ROUND.names, "ablated_replay", "ablated_grade"}
    before = ROUND.names[: ROUND.names.index("advantages")]
    assert all(keys[0][name] == with_solo[name] for name in before)


def test_a_variant_that_asks_for_it_generates_the_ablated_replays_alone(tmp_path: Path) -> None:
    main = drive(tmp_path, config_of("duo", "tree"))
    overrides = ("advantages.estimator=ccpo",)
    assert first_changed(main.resolver.round, _ccpo("duo", "tree", 1)) == "ablated_replay"
    record_variant(Layout(tmp_path), "test", "without", Variant("main", 1, "ablated_replay", overrides))
    branch = drive_on(resolver_of(tmp_path, "test", 1, "without"))
    assert branch.made == ["ablated_replay", "ablated_grade", "advantages", "update"]
    assert list(garbage(Layout(tmp_path))) == []
    assert [finding for _, finding in verify(Layout(tmp_path)) if finding] == []
    states = query(Layout(tmp_path), "select variant, source, count(*) from interventions group by all").fetchall()
    assert states == [("without", "ablated_replay", 4)]
    # the round's own episodes and rewards are the plan's, with or without
    counts = query(Layout(tmp_path), "select variant, count(*) from episodes group by all order by all").fetchall()
    assert counts == [("main", 32), ("without", 32)]


def test_a_lost_part_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    round = drive(tmp_path, _ccpo("duo", "tree"), until="ablated_replay")
    before = round.artifacts["ablated_replay"]
    for file in before.parts()[1].glob("*.parquet"):
        file.unlink()
    again = drive_on(resolver_of(tmp_path, "test", 1), until="ablated_replay")
    assert again.made == ["ablated_replay"]
    assert again.reports["ablated_replay"].parts_made == 1
    assert again.artifacts["ablated_replay"].digest == before.digest


def test_compare_shows_it_where_the_round_has_ablated_replays(trio: PlayedRound) -> None:
    rows = [row for row in compare(trio.session).by_estimator if row["estimator"] == "ccpo"]
    stored = trio.rows("advantages")
    for row in rows:
        values = [other["advantage"] for other in stored if other["role"] == row["role"]]
        assert row["undefined"] == sum(value is None for value in values)
        if row["mean"] is not None:
            assert row["mean"] == pytest.approx(np.mean(values))
    assert {row["role"] for row in rows} == {"reasoner", "actor", "verifier"}


def test_the_step_is_planned_and_refused_where_nobody_asks_for_it(trio: PlayedRound) -> None:
    planned = [name for name, _, _ in plan_steps(trio.resolver.round)]
    assert planned == [step.name for step in trio.resolver.steps]
    plain = under(trio.resolver, config_of("duo", "tree"))
    check_stage("ablated_replay")
    with pytest.raises(
        ConfigError, match=r"only some estimators read ablated replays, and advantages\.estimator is c3"
    ):
        plain.list_with("ablated_replay")


def test_who_asks_for_it_is_told_what_the_last_role_gets() -> None:
    note, budget = config_warnings(_ccpo("duo", "tree"))
    assert "the last role gets no advantage" in note and "= skip" in note
    assert "on top of plan.budget" in budget


def test_solo_seeds_are_nobody_elses(trio: PlayedRound) -> None:
    seeds = [row["seed"] for row in trio.rows("decisions")]
    ids = [row["decision_id"] for row in trio.rows("decisions")]
    assert len(set(seeds)) == len(seeds) and len(set(ids)) == len(ids)
