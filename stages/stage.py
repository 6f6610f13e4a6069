"""What a stage is: a name, a version, the slice of config it reads, how it is cut, and how one part is made.

Stages never import each other. They are given a job (refs in) and hand over a product (refs out); the pipeline wires
them, and what they share is in the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.role_graph import topological_order
from configs.schema import Config, Role
from stages.problem_sources.protocol import Problem
from stages.tools import Tools
from stages.tree import DrawTree, draw_tree
from store.artifacts import Artifact, Product, Row
from store.identity import Draws, digest, seed_from
from store.policies import PolicyVersion

RETRIED = "retried"
"""The input that holds the rewards before a retry. It is no part of a step's wiring, so checks do not see it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One shard of a stage's work, fixed by the configuration."""

    index: int
    problem_ids: tuple[str, ...] = ()
    """The problems it covers; empty for stages that are not cut by problem."""


@dataclass(frozen=True, slots=True)
class Probe:
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
    redraw: int = 0
    """0: the first draws; K: the K-th independent set of draws."""
    retry: int = 0
    """K: the K-th time that what the evaluator failed on is graded again; the rewards before it are the input RETRIED."""
    extra_replays: int = 0
    """Independent replays of each alternative that the round's diagnosis may spend."""
    probe: Probe | None = None
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
        return Draws(self.config.seed, self.round, self.weights.version, self.redraw)

    @property
    def weights(self) -> PolicyVersion:
        """The policy version; stages that generate or train always have one."""
        assert self.policy is not None
        return self.policy


@dataclass(frozen=True)
class Stage:
    """A stage's declaration. Raise `version` by hand when its meaning changes, never for a refactoring."""

    name: str
    version: int
    tables: tuple[str, ...]
    """What it writes: each of these tables is checked, also when not a row of it was written."""
    config_slice: Callable[[Job], dict[str, Any]]
    """The values it reads, and nothing else: they are its part of the key."""
    cut: Callable[[Job], Sequence[Part]]
    make: Callable[[Part, Job, Tools], Product]
    messages: Callable[[Job], int] = lambda job: 0
    """Messages it will generate in all, for the progress bar."""
    sequential: bool = False
    """Whether each part continues the one before it."""
    spending: Callable[[Job], list[Row]] = lambda job: job.tree.spending()
    """What its checks hold it to, per role of one problem (schema: store.query.SPENDING)."""
    weights: str | None = None
    """What it does with the policy: None, "samples" (the engine's identity is in the key) or "trains"."""


def stage_key(stage: Stage, job: Job, weights_identity: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The key, and the parts it was made from (kept in the manifest, so that two keys can be compared)."""
    made_from: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "config": stage.config_slice(job),
        "inputs": {name: artifact.digest for name, artifact in job.inputs.items()},
    }
    if stage.weights:
        made_from["policy"] = job.weights.version
        made_from["weights"] = dict(weights_identity or {})
    if stage.weights == "samples" and job.redraw:
        made_from["redraw"] = job.redraw
    if job.retry:
        made_from["retry"] = job.retry
    return digest(made_from)[:32], made_from


def selected_problems(job: Job) -> list[str]:
    """The problems of the job's round: a permutation per epoch, dealt out in rounds of `rounds.problems`.

    Every problem comes once per epoch; an epoch's last round takes what is left. Only the seed decides the order.
    """
    everything = sorted(job.problems)
    size = job.config.rounds.problems
    if size > len(everything):
        raise ConfigError(
            f"rounds.problems: {size} problems a round, but the set has {len(everything)}; lower it or add problems"
        )
    epoch, index = divmod(job.round - 1, ceil(len(everything) / size))
    order = sorted(everything, key=lambda problem_id: seed_from("epoch", job.config.seed, epoch, problem_id))
    return order[index * size : (index + 1) * size]


def cut_problems(problem_ids: Sequence[str], size: int) -> list[Part]:
    """Shards of `size` problems each."""
    starts = range(0, len(problem_ids), size)
    return [Part(index, tuple(problem_ids[start : start + size])) for index, start in enumerate(starts)]


def cut_by_problem_of(*tables: str) -> Callable[[Job], list[Part]]:
    """Cut by the problems that tables hold, in the tables' order."""

    def cut(job: Job) -> list[Part]:
        problem_ids = dict.fromkeys(row["problem_id"] for table in tables for row in job.rows(table))
        return cut_problems(list(problem_ids), job.config.parts.problems)

    return cut


def one_part(job: Job) -> list[Part]:
    """Not cut at all."""
    return [Part(0)]


def prompts_slice(job: Job) -> list[dict[str, Any]]:
    """What the roles are and see: part of the key of every stage that renders prompts."""
    return [role.model_dump(mode="json", exclude={"policy", "max_new_tokens"}) for role in job.roles]


def answers_slice(job: Job) -> list[dict[str, Any]]:
    """Who answers for each role, and how long at most: part of the key of every stage that answers prompts."""
    return [
        {"name": role.name, "policy": role.policy, "max_new_tokens": job.config.max_new_tokens(role)}
        for role in job.roles
    ]


def sampling_slice(job: Job) -> dict[str, Any]:
    """How messages are drawn; how long they are at most is each role's own."""
    return job.config.sampling.model_dump(mode="json", exclude={"max_new_tokens"})
