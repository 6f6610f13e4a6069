"""A job: one stage requested once, with its inputs, its round and its policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from configs.role_graph import topological_order
from configs.roles import Role
from configs.schema import Config
from stages.base.draw_tree import DrawTree, draw_tree
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Artifact, Row
from store.artifacts.policy_version import PolicyVersion
from store.disk.ids import Draws

RETRIED = "retried"
"""The input that holds the rewards before a retry. It is no part of a step's wiring, so checks do not see it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One shard of a stage's work, fixed by the configuration."""

    index: int
    problem_ids: tuple[str, ...] = ()
    """The problems it covers; empty for stages that are not cut by problem."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """A message of one's own, put into frozen states to see what follows. It is looked at: never credited, never trained on."""

    text: str
    """Empty: the state without the role's message."""
    replays: int
    """Independent continuations at each state; after the last role there is nothing to continue."""
    role: str | None = None
    """At every frozen state of this role; None: at `state_id` alone."""
    state_id: str | None = None


@dataclass(frozen=True)
class Job:
    """One stage asked for once: which round of which configuration, over which artifacts, with which weights."""

    config: Config
    round: int
    inputs: Mapping[str, Artifact]
    """By the name of the step that made each."""
    policy: PolicyVersion | None = None
    output: Path = Path()
    """The folder of the artifact in the making: a sequential stage's part finds the one before it there."""
    draw_set: int = 0
    """0: the first draws; K: the K-th independent set of draws."""
    retry: int = 0
    """K: the K-th time that what the evaluator failed on is graded again; the rewards before it are the input RETRIED."""
    independent_replay_count: int = 0
    """Independent replays of each alternative that the round's diagnosis may spend."""
    intervention: Intervention | None = None
    """What `c3 what-if` asks; None in every other stage."""
    _rows: dict[str, list[Row]] = field(default_factory=dict, compare=False, init=False)
    _places: dict[str, dict[str, list[int]]] = field(default_factory=dict, compare=False, init=False)

    def rows(self, table: str) -> list[Row]:
        """The rows of a table over all inputs that hold it, in the inputs' order. Read once."""
        if table not in self._rows:
            self._rows[table] = [row for artifact in self.inputs.values() for row in artifact.rows(table)]
        return self._rows[table]

    def rows_of(self, table: str, part: Part) -> list[Row]:
        """Those of them that belong to the part's problems, in the same order."""
        rows = self.rows(table)
        if table not in self._places:  # found once, because a stage of many parts would search all rows for each
            places: defaultdict[str, list[int]] = defaultdict(list)
            for place, row in enumerate(rows):
                places[row["problem_id"]].append(place)
            self._places[table] = dict(places)
        found = self._places[table]
        return [
            rows[place] for place in sorted(p for problem_id in part.problem_ids for p in found.get(problem_id, ()))
        ]

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
