"""The round, as the paper's algorithm box: which stage follows which, and what each is given.

These lists are the whole wiring. A step is a stage in its place; its inputs are the steps named before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from configs.schema import Config
from stages.ablated_replay import ABLATED_REPLAY
from stages.advantages import ADVANTAGES
from stages.answer import ANSWER
from stages.base.stage import Stage
from stages.critic import CRITIC
from stages.diagnose import DIAGNOSE
from stages.evaluate import EVALUATE
from stages.freeze import FREEZE
from stages.grade import GRADE
from stages.independent_replay import INDEPENDENT_REPLAY
from stages.intervention import INTERVENTION
from stages.problems import HELDOUT, PROBLEMS
from stages.replay import REPLAY
from stages.rollout import ROLLOUT
from stages.sample import SAMPLE
from stages.update import UPDATE
from store.queries.estimators import estimator


@dataclass(frozen=True, slots=True)
class Step:
    """Put a stage in its place."""

    name: str
    stage: Stage[Any]
    inputs: tuple[str, ...] = ()
    """Names of the steps whose results it reads."""


@dataclass(frozen=True)
class StepList:
    """List steps that run one after another for one command."""

    name: str
    steps: tuple[Step, ...]
    command: str
    """The `c3` command that makes them."""
    policy: Literal["before", "after"] = "before"
    """Which policy they use: the one that the round starts from, or the one that it ends with."""
    recorded_as: Literal["steps", "interventions"] = "steps"
    """Where a round's record keeps them: a round has one result of each step, but as many interventions as were asked."""
    makes: str | None = None
    """The view that an estimator may read, where only some do; None: they run for every estimator."""
    beside: bool = False
    """Whether a round is complete without them: no step of the round reads what they make."""

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def names(self) -> list[str]:
        """The steps' names, in order."""
        return [step.name for step in self.steps]

    def step(self, name: str) -> Step:
        """Return the step of that name. KeyError when it is in another list."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def until(self, name: str) -> StepList:
        """Return the list up to and including the step of that name."""
        return replace(self, steps=self.steps[: self.names.index(name) + 1])

    @property
    def read_outside(self) -> set[str]:
        """Names of the steps of another list whose results these read."""
        return {name for step in self.steps for name in step.inputs} - set(self.names)


ROUND = StepList(
    "round",
    (
        # pi_b := pi_theta, frozen: every step below sees one policy version
        Step("problems", PROBLEMS),
        # roll out N transcripts per problem under pi_b
        Step("rollout", ROLLOUT, ("problems",)),
        # freeze the exact context h of every message, and the replay state behind it
        Step("freeze", FREEZE, ("problems", "rollout")),
        # sample alternatives a_1 .. a_n ~ pi_b(.|h), the logged one among them
        Step("sample", SAMPLE, ("problems", "freeze")),
        # replay what follows each of them under the same pi_b
        Step("replay", REPLAY, ("problems", "freeze", "rollout", "sample")),
        # R: one evaluation of every finished episode
        Step("grade", GRADE, ("problems", "rollout", "replay")),
        # A_j = Q_j - b_{-j}
        Step("advantages", ADVANTAGES, ("rollout", "sample", "replay", "grade")),
        # theta := argmax E[min(r A, clip(r, 1 - eps, 1 + eps) A)]
        Step("update", UPDATE, ("freeze", "rollout", "sample", "replay", "advantages")),
    ),
    command="run iteration",
)

ABLATED_REPLAYS = StepList(
    "ablated replays",
    (
        # what each state is worth without the role's message: only where the estimator reads it
        Step("ablated_replay", ABLATED_REPLAY, ("problems", "freeze", "replay")),
        Step("ablated_grade", GRADE, ("problems", "ablated_replay")),
    ),
    command="run iteration",
    makes="ablated_replay",
)

VALUES = StepList(
    "learned values",
    (
        # V(h) and Q(h, a), learned from the other problems' returns: only where the estimator reads them
        Step("critic", CRITIC, ("freeze", "rollout", "sample", "replay", "grade")),
    ),
    command="run iteration",
    makes="critic_values",
)

EVALUATION = StepList(
    "evaluation",
    (
        Step("heldout", HELDOUT),
        # one greedy answer per held-out problem under pi_theta
        Step("answer", ANSWER, ("heldout",)),
        Step("answer_grade", GRADE, ("heldout", "answer")),
        Step("evaluate", EVALUATE, ("heldout", "answer", "answer_grade")),
    ),
    command="run evaluation",
    policy="after",
    beside=True,
)

DIAGNOSIS = StepList(
    "diagnosis",
    (
        # independent replays of the round's alternatives under its own pi_b: none, unless they were requested
        Step("independent_replay", INDEPENDENT_REPLAY, ("problems", "freeze", "rollout", "sample", "replay")),
        Step("independent_grade", GRADE, ("problems", "independent_replay")),
        Step(
            "diagnose",
            DIAGNOSE,
            ("rollout", "sample", "replay", "grade", "advantages", "independent_replay", "independent_grade"),
        ),
    ),
    command="diagnose",
    beside=True,
)
"""Nothing of it flows back: no step of a round reads these."""

INTERVENTIONS = StepList(
    "interventions",
    (
        # a user-supplied message at frozen states, and what follows it under pi_b: once per question
        Step("intervention", INTERVENTION, ("problems", "freeze", "replay")),
        Step("intervention_grade", GRADE, ("problems", "intervention")),
    ),
    command="what-if",
    recorded_as="interventions",
    beside=True,
)
"""Nothing of it flows back either. A round has as many of these as were asked, so they are no part of its record's steps."""

OPTIONAL = (ABLATED_REPLAYS, VALUES)
"""Lists whose steps a round has where its estimator reads what they make; they come before `advantages`."""
LISTS = (ROUND, *OPTIONAL, EVALUATION, DIAGNOSIS, INTERVENTIONS)

_BEFORE = ROUND.names.index("advantages")

EVERYTHING: tuple[Step, ...] = (
    *ROUND.steps[:_BEFORE],
    *(step for steps in OPTIONAL for step in steps),
    *ROUND.steps[_BEFORE:],
    *EVALUATION,
    *DIAGNOSIS,
)
"""What a round or an evaluation has one of, in order."""
ORDER: list[str] = [step.name for step in EVERYTHING]


def round_steps(config: Config) -> StepList:
    """Return the round's steps under a configuration: with ablated replays or learned values where its estimator reads them."""
    read = estimator(config.advantages.estimator).reads
    wanted = [step for steps in OPTIONAL if steps.makes in read for step in steps]
    credit = ROUND.steps[_BEFORE]
    reading = replace(credit, inputs=(*credit.inputs, *(step.name for step in wanted)))
    return replace(ROUND, steps=(*ROUND.steps[:_BEFORE], *wanted, reading, *ROUND.steps[_BEFORE + 1 :]))


def list_with(name: str) -> StepList:
    """Return the list that the step of that name is in. StopIteration when there is no such step."""
    return next(steps for steps in LISTS if name in steps.names)


def step_named(name: str) -> Step:
    """Return the step of that name, in whichever list; with its inputs as the plain round has them."""
    return list_with(name).step(name)
