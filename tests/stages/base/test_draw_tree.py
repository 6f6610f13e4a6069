"""The three plans: what they draw, what that costs, and whom each evaluation counts towards. docs/method.md, section 3."""

from __future__ import annotations

import re
from collections import Counter
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.plan import EpisodesPlan, PlanConfig, ReplayPlan, RoleReplays, TreePlan
from stages.base.draw_tree import DrawTree, draw_tree
from store.disk.ids import DrawPath

FANOUTS = st.lists(st.integers(1, 4), min_size=1, max_size=5)
ROLE_REPLAYS = st.one_of(st.none(), st.builds(RoleReplays, alternatives=st.integers(2, 4), replays=st.integers(1, 3)))


def _names(depth: int) -> list[str]:
    return [f"role_{place}" for place in range(1, depth + 1)]


def _tree(*fanout: int, round: int = 1, rotate: bool = False) -> DrawTree:
    plan = TreePlan(fanout=fanout, budget=prod(fanout), rotate=rotate)
    plan.check(_names(len(fanout)))
    return draw_tree(plan, _names(len(fanout)), round)


@st.composite
def replay_plans(draw: st.DrawFn) -> tuple[ReplayPlan, list[str]]:
    """A replay plan for one to four roles, each examined or not, its budget stated right."""
    transcripts = draw(st.integers(1, 3))
    chosen = draw(st.lists(ROLE_REPLAYS, min_size=1, max_size=4))
    names = _names(len(chosen))
    if chosen[-1] is not None:
        chosen[-1] = RoleReplays(alternatives=chosen[-1].alternatives, replays=1)
    roles = {name: spend for name, spend in zip(names, chosen, strict=True) if spend}
    # docs/method.md, section 3: N (1 + sum_r (n_r c_r - 1))
    budget = transcripts * (1 + sum(spend.alternatives * spend.replays - 1 for spend in roles.values()))
    plan = ReplayPlan(transcripts=transcripts, roles=roles, budget=budget)
    plan.check(names)
    return plan, names


@st.composite
def plans(draw: st.DrawFn) -> DrawTree:
    """Any plan over any roles, as its tree."""
    kind = draw(st.sampled_from(["tree", "replay", "episodes"]))
    if kind == "tree":
        return _tree(*draw(FANOUTS))
    if kind == "replay":
        return draw_tree(*draw(replay_plans()), 1)
    return draw_tree(EpisodesPlan(budget=draw(st.integers(1, 8))), _names(draw(st.integers(1, 5))), 1)


def _logged(tree: DrawTree) -> list[DrawPath]:
    return [path[:end] for path in tree.transcript_paths() for end in range(1, tree.depth + 1)]


def _continued(tree: DrawTree) -> dict[DrawPath, list[list[DrawPath]]]:
    """Alternative -> what its replays draw, level by level, for every alternative that is continued."""
    found = {path: tree.continuation(path) for path in [*_logged(tree), *tree.new_alternatives()]}
    return {path: continuation.paths(path) for path, continuation in found.items() if continuation is not None}


def _evaluations(tree: DrawTree) -> list[tuple[DrawPath, list[DrawPath]]]:
    """Every terminal evaluation as its leaf and the decisions it counts towards, from the draws alone."""
    ended = [(leaf, [leaf[:end] for end in range(1, tree.depth + 1)]) for leaf in tree.transcript_paths()]
    for alternative, levels in _continued(tree).items():
        for leaf in levels[-1] if levels else [alternative]:
            ended.append((leaf, tree.credited(alternative, leaf)))
    return ended


def _total(tree: DrawTree, column: str, *stages: str) -> int:
    return sum(row[column] for row in tree.spending() if not stages or row["stage"] in stages)


def test_fanout_two_four_is_ten_messages_and_eight_evaluations() -> None:
    # rollout: 2 paths of 2 = 4 messages, 2 ends. sample: 3 more answers at each of 2 states = 6 messages, 6 ends.
    tree = _tree(2, 4)
    assert [_total(tree, "messages", stage) for stage in ("rollout", "sample", "replay")] == [4, 6, 0]
    assert _total(tree, "evaluations") == 8
    assert sorted(_evaluations(tree)) == sorted(
        ((reasoner, actor), [(reasoner,), (reasoner, actor)]) for reasoner in (0, 1) for actor in (0, 1, 2, 3)
    )


def test_eight_independent_episodes_of_two_roles_are_sixteen_messages() -> None:
    tree = draw_tree(EpisodesPlan(budget=8), _names(2), 1)
    assert (_total(tree, "messages"), _total(tree, "evaluations")) == (16, 8)


def test_three_levels_of_two_are_drawn_by_three_stages() -> None:
    # rollout: 2 paths of 3. sample: one sibling at depth 2 under each of 2, one at depth 3 under each of 2 = 4.
    # replay: below the 2 new ones of depth 2, two answers each = 4. In all 2 + 4 + 8 = 14.
    tree = _tree(2, 2, 2)
    assert [_total(tree, "messages", stage) for stage in ("rollout", "sample", "replay")] == [6, 4, 4]
    assert _continued(tree)[0, 1] == [[(0, 1, 0), (0, 1, 1)]]


@given(FANOUTS)
def test_a_tree_has_the_product_of_its_fanouts_in_leaves(fanout: list[int]) -> None:
    tree = _tree(*fanout)
    assert _total(tree, "evaluations") == prod(fanout)
    # at depth d there are f_1 x ... x f_d messages, whatever stage made them
    assert _total(tree, "messages") == sum(prod(fanout[:depth]) for depth in range(1, len(fanout) + 1))
    assert sorted({leaf for leaf, _ in _evaluations(tree)}) == sorted(_product(fanout))


def _product(fanout: list[int]) -> list[DrawPath]:
    paths: list[DrawPath] = [()]
    for count in fanout:
        paths = [(*path, draw) for path in paths for draw in range(count)]
    return paths


@given(replay_plans())
def test_a_replay_plan_costs_what_algorithm_one_costs(drawn: tuple[ReplayPlan, list[str]]) -> None:
    plan, names = drawn
    tree, depth = draw_tree(plan, names, 1), len(names)
    assert len(_evaluations(tree)) == _total(tree, "evaluations") == plan.budget
    below = {name: depth - place for place, name in enumerate(names, start=1)}
    # N transcripts of D messages; n_r - 1 new alternatives; n_r c_r - 1 continuations of the roles below
    # (the last role's alternatives have none below)
    assert _total(tree, "messages") == plan.transcripts * (
        depth
        + sum(s.alternatives - 1 + (s.alternatives * s.replays - 1) * below[name] for name, s in plan.roles.items())
    )


@given(st.integers(1, 8), st.integers(1, 5))
def test_episodes_do_not_branch(budget: int, depth: int) -> None:
    tree = draw_tree(EpisodesPlan(budget=budget), _names(depth), 1)
    assert (_total(tree, "messages"), _total(tree, "evaluations")) == (budget * depth, budget)
    assert tree.new_alternatives() == []
    assert _continued(tree) == {}


@given(plans())
def test_the_spending_is_what_is_drawn(tree: DrawTree) -> None:
    replayed = [path for levels in _continued(tree).values() for level in levels for path in level]
    for stage, paths in (("rollout", _logged(tree)), ("sample", tree.new_alternatives()), ("replay", replayed)):
        at = Counter(len(path) for path in paths)
        assert [row["messages"] for row in tree.spending() if row["stage"] == stage] == [
            at[depth] for depth in range(1, tree.depth + 1)
        ]
    assert len(_evaluations(tree)) == _total(tree, "evaluations")


@given(plans())
def test_no_message_is_drawn_twice(tree: DrawTree) -> None:
    replayed = [path for levels in _continued(tree).values() for level in levels for path in level]
    drawn = [*_logged(tree), *tree.new_alternatives(), *replayed]
    assert len(drawn) == len(set(drawn))
    leaves = [leaf for leaf, _ in _evaluations(tree)]
    assert len(leaves) == len(set(leaves))


@given(plans())
def test_every_alternative_is_credited_as_often_as_the_plan_says(tree: DrawTree) -> None:
    credits = Counter(decision for _, credited in _evaluations(tree) for decision in credited)
    planned = {row["depth"]: row["replays"] for row in tree.spending()}
    assert {decision: count for decision, count in credits.items() if count != planned[len(decision)]} == {}
    for depth in range(1, tree.depth + 1):
        alternatives = sum(row["alternatives"] for row in tree.spending() if row["depth"] == depth)
        assert sum(len(decision) == depth for decision in credits) == alternatives


@given(FANOUTS)
def test_in_a_tree_a_leaf_counts_for_every_message_above_it(fanout: list[int]) -> None:
    for leaf, credited in _evaluations(_tree(*fanout)):
        assert credited == [leaf[:end] for end in range(1, len(leaf) + 1)]


@given(replay_plans())
def test_an_unbranched_replay_counts_for_its_alternative_alone(drawn: tuple[ReplayPlan, list[str]]) -> None:
    tree = draw_tree(*drawn, 1)
    logged = {path: credited for path, credited in _evaluations(tree) if path in tree.transcript_paths()}
    assert all(len(credited) == tree.depth for credited in logged.values())
    for leaf, credited in _evaluations(tree):
        if leaf not in logged:
            assert len(credited) == 1
            assert leaf[: len(credited[0])] == credited[0]


@given(plans())
def test_a_role_gets_no_credit_exactly_where_its_states_hold_one_credited_message(tree: DrawTree) -> None:
    credits = {decision for _, credited in _evaluations(tree) for decision in credited}
    group_sizes = Counter(decision[:-1] for decision in credits)
    lonely = [
        role for depth, role in enumerate(tree.roles) if all(n == 1 for s, n in group_sizes.items() if len(s) == depth)
    ]
    assert tree.uncredited() == lonely


def test_rotation_moves_every_fanout_one_role_on_each_round() -> None:
    # 2,4 in round 1; the 2 moves on to the second role in round 2; back in round 3
    plan = TreePlan(fanout=(2, 4), budget=8, rotate=True)
    assert [plan.fanout_of_round(round) for round in (1, 2, 3)] == [(2, 4), (4, 2), (2, 4)]
    assert TreePlan(fanout=(2, 4), budget=8).fanout_of_round(2) == (2, 4)


def test_in_as_many_rounds_as_roles_each_of_ten_roles_branches_equally_often() -> None:
    fanout = (2, 2, 2, 1, 1, 1, 1, 1, 1, 1)
    trees = [_tree(*fanout, round=round, rotate=True) for round in range(1, 11)]
    assert {_total(tree, "evaluations") for tree in trees} == {8}
    credited = Counter(role for tree in trees for role in set(tree.roles) - set(tree.uncredited()))
    assert credited == dict.fromkeys(_names(10), 3)
    # round 4: the three twos have moved on by three, to the roles 4, 5 and 6
    assert sorted(set(trees[3].roles) - set(trees[3].uncredited())) == ["role_4", "role_5", "role_6"]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (TreePlan(fanout=(2, 4), budget=9), "plan.budget: 9 evaluations per problem stated, but fanout 2,4 spends 8"),
        (TreePlan(fanout=(8,), budget=8), "plan.fanout: 1 fanouts for 2 roles"),
        (
            ReplayPlan(transcripts=2, roles={"role_1": RoleReplays(alternatives=2, replays=2)}, budget=7),
            # 2 (1 + 2 x 2 - 1) = 8
            "plan.budget: 7 evaluations per problem stated, but transcripts x (1 + sum(n c - 1)) spends 8",
        ),
        (ReplayPlan(roles={"stranger": RoleReplays(alternatives=2)}, budget=2), "no role named 'stranger'"),
        (
            ReplayPlan(roles={"role_2": RoleReplays(alternatives=2, replays=2)}, budget=4),
            "nothing follows the last role",
        ),
        (ReplayPlan(roles={"role_1": RoleReplays(alternatives=1, replays=2)}, budget=2), "credit nothing"),
    ],
)
def test_a_plan_that_cannot_be_spent_is_refused(plan: PlanConfig, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        plan.check(_names(2))
