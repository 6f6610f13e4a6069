"""What a round will cost, before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from configs.role_graph import topological_order
from configs.schema import Config
from pipeline.steps import ABLATED_REPLAYS, round_steps
from stages.base.draw_tree import DrawTree, draw_tree


@dataclass(frozen=True)
class RoleCost:
    """One role's share of a round."""

    role: str
    messages: int
    groups: str
    """Alternatives per state and replays of each, as "4 x 1"; "-" when the role gets no credit."""
    tokens_at_most: int


@dataclass(frozen=True)
class RoundCost:
    """A round's cost over all its problems."""

    round: int
    problems: int
    roles: list[RoleCost]
    evaluations: int
    budget_per_problem: int
    uncredited: list[str]
    stages: dict[str, int]
    """Messages by stage."""
    ablated_evaluations: int = 0
    """Of the evaluations, those without a message, on top of the plan's budget; only some estimators read them."""

    @property
    def messages(self) -> int:
        """Messages in all."""
        return sum(role.messages for role in self.roles)

    @property
    def tokens_at_most(self) -> int:
        """New tokens when every message runs to its limit."""
        return sum(role.tokens_at_most for role in self.roles)


def round_cost(config: Config, round: int) -> RoundCost:
    """Return the cost of a full round by the plan alone."""
    order = topological_order({role.name: role.depends_on for role in config.roles})
    tree = draw_tree(config.plan, order, round)
    spending = tree.spending()
    credit = config.advantages
    ablated = (
        tree.ablated_spending(credit.ablated_replays) if ABLATED_REPLAYS.steps[0] in round_steps(config).steps else []
    )
    problems = config.rounds.problems_per_round
    by_name = {role.name: role for role in config.roles}
    roles = []
    for depth, name in enumerate(order):
        messages = problems * sum(row["messages"] for row in (*spending, *ablated) if row["role"] == name)
        roles.append(RoleCost(name, messages, _groups(tree, depth), messages * config.max_new_tokens(by_name[name])))
    return RoundCost(
        round,
        problems,
        roles,
        problems * sum(row["evaluations"] for row in (*spending, *ablated)),
        config.plan.budget,
        tree.uncredited(),
        {
            stage: problems * sum(row["messages"] for row in (*spending, *ablated) if row["stage"] == stage)
            for stage in ("rollout", "sample", "replay", *(("ablated_replay",) if ablated else ()))
        },
        problems * sum(row["evaluations"] for row in ablated),
    )


def _groups(tree: DrawTree, depth: int) -> str:
    if tree.roles[depth] in tree.uncredited():
        return "-"
    replays: Any = next(row["replays"] for row in tree.spending() if row["depth"] == depth + 1)
    size = tree.siblings[depth]
    if depth == 0:
        size = tree.transcripts * size if tree.replays else tree.transcripts
    return f"{size} x {replays}"
