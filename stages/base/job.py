"""A job: one stage requested once, with its inputs, its round and its policy.

Most stages take a plain `Job`. A stage that needs something more of a round declares a job type with that field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from configs.role_graph import topological_order
from configs.roles import Role
from configs.schema import Config
from stages.base.draw_tree import DrawTree, draw_tree
from stages.base.inputs import Inputs, Part
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Row
from store.artifacts.policy_version import PolicyVersion
from store.disk.ids import Draws

RETRIED = "retried"
"""The input that holds the rewards before a retry. It is no part of a step's wiring, so checks do not see it."""


@dataclass(frozen=True)
class Job:
    """Ask for one stage of a round: under which configuration, over which artifacts, with which weights."""

    config: Config
    round: int
    """Counted from 1; 0 where the untrained team is evaluated."""
    inputs: Inputs = field(default_factory=lambda: Inputs({}))
    policy: PolicyVersion | None = None
    """None for stages that neither sample nor train."""
    output: Path = Path()
    """The folder of the artifact in the making: a sequential stage's part finds the one before it there."""
    draw_set: int = 0
    """0: the first draws; K: the K-th independent set of draws."""

    @property
    def key_inputs(self) -> dict[str, int]:
        """What of it is in the key besides the stage's slice of the configuration, the inputs and the policy."""
        return {}

    def rows(self, table: str) -> list[Row]:
        """Return the rows of a table over all inputs that hold it, in the inputs' order."""
        return self.inputs.rows(table)

    def rows_of(self, table: str, part: Part) -> list[Row]:
        """Return the rows of a table that belong to the part's problems, in the inputs' order."""
        return self.inputs.rows_of(table, part)

    @cached_property
    def problems(self) -> dict[str, Problem]:
        """Every problem of the set, by id."""
        return {row["problem_id"]: Problem(**row) for row in self.rows("problems")}

    @cached_property
    def roles(self) -> tuple[Role, ...]:
        """The roles in speaking order."""
        by_name = {role.name: role for role in self.config.roles}
        return tuple(by_name[name] for name in topological_order({r.name: r.depends_on for r in self.config.roles}))

    @cached_property
    def tree(self) -> DrawTree:
        """The round's tree of draws."""
        return draw_tree(self.config.plan, [role.name for role in self.roles], self.round)

    @cached_property
    def draws(self) -> Draws:
        """The round's randomness."""
        return Draws(self.config.seed, self.round, self.weights.version, self.draw_set)

    @property
    def weights(self) -> PolicyVersion:
        """The policy version; stages that generate or train always have one."""
        assert self.policy is not None
        return self.policy


@dataclass(frozen=True)
class GradeJob(Job):
    """Grade finished episodes, or those of them that the evaluator failed on before."""

    retry: int = 0
    """K: the K-th time that what the evaluator failed on is graded again; the rewards before it are the input RETRIED."""

    @property
    def key_inputs(self) -> dict[str, int]:
        """The number of the retry; nothing the first time."""
        return {"retry": self.retry} if self.retry else {}


@dataclass(frozen=True)
class IndependentReplayJob(Job):
    """Replay a round's alternatives once more, to hold its credit against."""

    count: int = 0
    """Independent replays of each alternative that the round's diagnosis may spend; 0: none."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """Put a user-supplied message into frozen states to see what follows; it is never credited or trained on."""

    text: str
    """Empty: the state without the role's message."""
    replays: int
    """Independent continuations at each state; after the last role there is nothing to continue."""
    role: str | None = None
    """At every frozen state of this role; None: at `state_id` alone."""
    state_id: str | None = None


@dataclass(frozen=True)
class InterventionJob(Job):
    """Continue a user-supplied message at frozen states: what `c3 what-if` asks."""

    intervention: Intervention | None = None
    """None: nothing is asked, so the stage cannot run."""
