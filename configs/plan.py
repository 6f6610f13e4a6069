"""How a round spends its terminal evaluations: the three plans, and what each costs.

A plan is arithmetic over the roles in speaking order; the paper's budget B is evaluations per problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section


class TreePlan(Section):
    """Fanouts along the speaking order: N = f_1 transcripts, f_d - 1 new siblings at each logged state of depth d,
    and replays that branch by the fanouts below. f_1 x ... x f_D evaluations per problem."""

    kind: Literal["tree"] = "tree"
    fanout: tuple[Annotated[int, Field(ge=1)], ...] = (2, 4)
    """One per role, in speaking order."""
    rotate: bool = False
    """Round by round, move the fanouts one role on, so that each role branches in some round."""
    budget: int
    """Terminal evaluations per problem, stated so that a typo in a fanout is caught."""

    def check(self, order: Sequence[str]) -> None:
        """Raise ValueError when the plan does not fit the roles or its own budget."""
        if len(self.fanout) != len(order):
            raise ValueError(
                f"plan.fanout: {len(self.fanout)} fanouts for {len(order)} roles; "
                f"give one per role in speaking order ({', '.join(order)})"
            )
        _check_budget(self.budget, prod(self.fanout), f"fanout {','.join(map(str, self.fanout))}", "plan.fanout")

    def fanout_of_round(self, round: int) -> tuple[int, ...]:
        """Return the fanouts this round uses."""
        if not self.rotate:
            return self.fanout
        shift = (round - 1) % len(self.fanout)
        return self.fanout[-shift:] + self.fanout[:-shift] if shift else self.fanout


class RoleReplays(Section):
    """How one role's states are examined under the `replay` plan."""

    alternatives: int = Field(ge=1)
    """n_r: alternatives at each logged state of the role, the logged one among them."""
    replays: int = Field(1, ge=1)
    """c_r: evaluations of each alternative by independent unbranched continuations."""


class ReplayPlan(Section):
    """The paper's algorithm 1: N transcripts, and at each role's logged state n_r alternatives with c_r evaluations
    each. N (1 + sum_r (n_r c_r - 1)) evaluations per problem."""

    kind: Literal["replay"] = "replay"
    transcripts: int = Field(1, ge=1)
    """N."""
    roles: dict[str, RoleReplays]
    """Roles not named are not examined."""
    budget: int

    def check(self, order: Sequence[str]) -> None:
        """Raise ValueError when the plan names unknown roles, wastes evaluations, or misses its budget."""
        for role, spend in self.roles.items():
            if role not in order:
                raise ValueError(f"plan.roles.{role}: no role named '{role}'; the roles are {', '.join(order)}")
            if role == order[-1] and spend.replays != 1:
                raise ValueError(
                    f"plan.roles.{role}.replays: {spend.replays}, but nothing follows the last role, so repeats would "
                    f"be identical; set it to 1"
                )
            if spend.alternatives == 1 and spend.replays > 1:
                raise ValueError(f"plan.roles.{role}: replays without a second alternative credit nothing")
        _check_budget(self.budget, self.evaluations(), "transcripts x (1 + sum(n c - 1))", "plan.roles")

    def evaluations(self) -> int:
        """Return the terminal evaluations of one problem."""
        return self.transcripts * (1 + sum(s.alternatives * s.replays - 1 for s in self.roles.values()))


class EpisodesPlan(Section):
    """B independent episodes per problem, no branching: every message has one episode."""

    kind: Literal["episodes"] = "episodes"
    budget: int = Field(ge=1)

    def check(self, order: Sequence[str]) -> None:
        """Accept any roles."""


PlanConfig = Annotated[TreePlan | ReplayPlan | EpisodesPlan, Field(discriminator="kind")]


def _check_budget(stated: int, spent: int, how: str, key: str) -> None:
    if stated != spent:
        raise ValueError(
            f"plan.budget: {stated} evaluations per problem stated, but {how} spends {spent}; "
            f"set budget = {spent} or change {key}"
        )
