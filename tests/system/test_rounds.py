"""Whole rounds of every world under every plan, driven without Prefect. The SQL checks run inside: a round that ends
has passed them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from configs.credit import AdvantagesConfig
from configs.evaluators import ExactEvaluator, GradeConfig, TableEvaluator
from configs.role_graph import ancestors
from configs.training import PolicyConfig, UpdateConfig
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import RoundRunner, make_part
from pipeline.steps import ROUND
from stages.base.resources import Resources
from stages.problem_sources.protocol import Problem
from store.artifacts.policy_version import policy_of
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.support.rounds import PLAYED, PlayedRound, config_of, drive, resolver_of
from tests.support.worlds import Truth, duo, four_turns, trio

Played = Callable[[str, str], PlayedRound]


def _bytes(round: PlayedRound) -> dict[str, Any]:
    """Per step the sha256 of every file of every part."""
    return {
        name: [{file: entry["sha256"] for file, entry in part["files"].items()} for part in artifact.manifest["parts"]]
        for name, artifact in round.artifacts.items()
    }


def _copied(round: PlayedRound, store: Path) -> PlayedRound:
    """The same round in a store that may be written to."""
    copytree(round.store, store)
    return replace(round, resolver=resolver_of(store, round.resolver.round.ref.run, round.resolver.round.ref.round))


def _problems(round: PlayedRound) -> dict[str, Problem]:
    return {row["problem_id"]: Problem(**row) for row in round.rows("problems")}


def _content(token_ids: list[int]) -> str:
    """The text of a scripted context: its bytes, without the marks between turns."""
    return bytes(token for token in token_ids if token < 256).decode()


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_a_round_spends_its_budget_on_every_problem(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    evaluations: dict[str, int] = defaultdict(int)
    for row in round.rows("rewards"):
        evaluations[row["problem_id"]] += 1
    assert evaluations == dict.fromkeys(_problems(round), round.config.plan.budget)


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_every_message_has_an_id_and_a_seed_of_its_own(played: Played, world: str, plan: str) -> None:
    decisions = played(world, plan).rows("decisions")
    assert len({row["decision_id"] for row in decisions}) == len(decisions)
    assert len({row["seed"] for row in decisions}) == len(decisions)


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_a_context_is_a_function_of_what_the_ancestors_said(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    graph = {role.name: role.depends_on for role in round.config.roles}
    contexts: dict[Any, set[str]] = defaultdict(set)
    for row in round.rows("contexts"):
        seen = ancestors(graph, row["role"])
        said = tuple((message["role"], message["text"]) for message in row["upstream"] if message["role"] in seen)
        contexts[row["problem_id"], row["role"], said].add(row["context_id"])
    assert {key: ids for key, ids in contexts.items() if len(ids) > 1} == {}


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_a_frozen_context_renders_again_from_what_was_said(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    truth, problems = Truth(round.config), _problems(round)
    for row in round.rows("contexts"):
        upstream = {message["role"]: message["text"] for message in row["upstream"]}
        assert tuple(row["token_ids"]) == truth.context(problems[row["problem_id"]], upstream)


def test_the_right_of_a_diamond_does_not_see_the_left(played: Played) -> None:
    for row in played("diamond", "tree").rows("contexts"):
        question = f"problem {int(row['problem_id'].removeprefix('scripted-'))}"
        said = {message["role"]: message["text"] for message in row["upstream"]}
        text = _content(row["token_ids"])
        if row["role"] == "right":
            assert set(said) == {"top", "left"}
            assert text == f"right. {question}. top: {said['top']}"
        elif row["role"] == "bottom":
            assert text == f"bottom. {question}. left: {said['left']} right: {said['right']}"


def test_a_role_may_be_shown_ancestors_it_does_not_wait_for(played: Played) -> None:
    # the verifier waits for the actor alone and is shown the reasoner too, behind a system prompt and an example
    contexts = [row for row in played("trio", "tree").rows("contexts") if row["role"] == "verifier"]
    assert contexts
    for row in contexts:
        question = f"problem {int(row['problem_id'].removeprefix('scripted-'))}"
        said = {message["role"]: message["text"] for message in row["upstream"]}
        shown = f"verifier. {question}. reasoner: {said['reasoner']} actor: {said['actor']}"
        assert _content(row["token_ids"]) == f"Say one word.antbee{shown}"


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_every_message_comes_from_the_frozen_policy(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    assert {row["policy_version"] for row in round.rows("decisions")} == {round.resolver.policy_before.version}


@pytest.mark.parametrize(("world", "plan"), PLAYED)
def test_a_round_ends_with_a_new_policy_version(played: Played, world: str, plan: str) -> None:
    round = played(world, plan)
    before = round.resolver.policy_before
    assert policy_of(round.artifacts["update"], before.base, before.adapters).version != before.version


@pytest.mark.parametrize("world", ["duo", "four_turns", "chain_of_ten"])
def test_the_next_round_samples_from_it(played: Played, world: str, store: Path) -> None:
    first = _copied(played(world, "tree"), store)
    second = drive(store, config_of(world, "tree"), round=2)
    learned = policy_of(
        first.artifacts["update"], first.resolver.policy_before.base, first.resolver.policy_before.adapters
    )
    assert {row["policy_version"] for row in second.rows("decisions")} == {learned.version}
    assert second.made == [name for name in second.reports if name != "problems"]
    drawn = {row["decision_id"] for row in first.rows("decisions")}
    assert drawn.isdisjoint(row["decision_id"] for row in second.rows("decisions"))


@pytest.mark.parametrize(("world", "plan"), [("duo", "tree"), ("four_turns", "replay"), ("chain_of_ten", "episodes")])
def test_the_same_configuration_gives_the_same_bytes_in_another_store(
    played: Played, world: str, plan: str, store: Path
) -> None:
    again = drive(store, config_of(world, plan), run="another-name")
    assert _bytes(again) == _bytes(played(world, plan))


def test_parts_made_in_another_order_have_the_same_bytes(played: Played, store: Path) -> None:
    config, layout = config_of("trio", "tree"), Layout(store)
    record_config(layout, "test", 1, config.model_dump(mode="json"))
    resolver, context = resolver_of(store, "test", 1), ExecutionContext(resources=Resources())
    runner = RoundRunner(resolver, context)
    for step in ROUND:
        for run in runner.attempts(step):
            with run.open() as writer:
                turn = 1 if step.stage.sequential else -1
                made = {part.index: make_part(writer, run.state, part, context) for part in run.missing[::turn]}
                run.close(writer, made)
    round = PlayedRound(resolver, runner.artifacts)
    assert _bytes(round) == _bytes(played("trio", "tree"))


def test_another_seed_draws_other_messages(played: Played, store: Path) -> None:
    other = drive(store, config_of("duo", "tree", seed=1), until="rollout")
    ours = {row["decision_id"] for row in played("duo", "tree").rows("decisions", "rollout")}
    assert ours.isdisjoint(row["decision_id"] for row in other.rows("decisions"))
    assert [row["text"] for row in other.rows("decisions")] != [
        row["text"] for row in played("duo", "tree").rows("decisions", "rollout")
    ]


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({}, []),
        ({"grade": GradeConfig(evaluator=ExactEvaluator())}, ["grade", "advantages", "update"]),
        # another key, but the same rewards: what follows is still good
        ({"grade": GradeConfig(evaluator=TableEvaluator(), max_unscored_share=0.5)}, ["grade"]),
        ({"advantages": AdvantagesConfig(group_by="context")}, ["advantages", "update"]),
        ({"update": UpdateConfig(learning_rate=0.5)}, ["update"]),
        ({"policies": {"team": PolicyConfig(learning_rate=0.5)}}, ["update"]),
        ({"seed": 1}, ["rollout", "freeze", "sample", "replay", "grade", "advantages", "update"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, (dict, list)) else None,
)
def test_a_change_makes_again_only_what_depends_on_it(
    played: Played, changes: dict[str, Any], made: list[str], store: Path
) -> None:
    first = _copied(played("duo", "tree"), store)
    second = drive(store, config_of("duo", "tree", **changes), run="changed")
    assert second.made == made
    if "rollout" not in made:
        assert sum(report.usage.get("messages", 0) for report in second.reports.values()) == 0
    assert [first.artifacts[name].key for name in first.reports if name not in made] == [
        second.artifacts[name].key for name in second.reports if name not in made
    ]


def test_a_context_shared_by_two_states_makes_one_group_when_grouped_by_context(store: Path) -> None:
    # in a diamond every state of `right` below one word of `top` shows the same context, whatever `left` said
    config = config_of("diamond", "tree", advantages=AdvantagesConfig(group_by="context"))
    groups: dict[str, set[str]] = defaultdict(set)
    for row in drive(store, config, until="advantages").rows("advantages"):
        assert row["group_id"] == f"{row['problem_id']}/{row['context_id']}"
        if row["role"] == "right":
            groups[row["group_id"]].add(row["state_id"])
    # fanout 1,2,2,2 and four problems: one word of `top` each, two states of `right` below it
    assert [len(states) for states in groups.values()] == [2, 2, 2, 2]


def test_a_frozen_policy_is_not_trained(store: Path) -> None:
    policies = {"proposer": PolicyConfig(), "critic": PolicyConfig(frozen=True)}
    round = drive(store, four_turns(policies=policies))
    skipped = {row["role"]: set() for row in round.rows("update_rows")}
    for row in round.rows("update_rows"):
        skipped[row["role"]].add(row["skipped"])
    assert skipped["critic_1"] == {"frozen policy"}
    # its state holds one message, so there is nothing to learn whether frozen or not
    assert skipped["critic_2"] == {"undefined advantage"}
    assert skipped["proposer_1"] == {None}
    assert {row["policy"] for row in round.rows("steps")} == {"proposer"}


def test_a_team_learns_what_its_problems_reward(store: Path) -> None:
    # the exact V of the team, before and after four rounds over the same four problems
    config = duo((4, 4), update=UpdateConfig(learning_rate=0.5, minibatches=1))
    rounds = [drive(store, config, round=number) for number in range(1, 5)]
    last = rounds[-1].resolver.policy_before
    learned = policy_of(rounds[-1].artifacts["update"], last.base, last.adapters)
    problems = list(_problems(rounds[0]).values())
    before, after = (
        sum(truth.v(problem, {}) for problem in problems) / len(problems)
        for truth in (Truth(config), Truth(config, learned))
    )
    best = sum(max(json.loads(problem.answer).values()) for problem in problems) / len(problems)
    assert after - before > 0.5 * (best - before)


def test_trained_rows_are_measured_against_what_sampled_them(store: Path) -> None:
    # the tabular learner computes the engine's own softmax: the two may differ by float32's rounding alone
    config = trio(update=UpdateConfig(minibatches=2))
    gaps = [
        row["largest_mismatch"]
        for row in drive(store, config).rows("update_rows")
        if row["largest_mismatch"] is not None
    ]
    assert gaps
    assert max(gaps) < 1e-6
