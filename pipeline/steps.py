"""The round, as the paper's algorithm box: which stage follows which, and what each is given.

These lists are the whole wiring. A step is a stage in its place; its inputs are the steps named before it.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from store.queries.advantages import requires_ablated_replays, requires_critic


@dataclass(frozen=True, slots=True)
class Step:
    """A stage in its place in a round."""

    name: str
    stage: Stage
    inputs: tuple[str, ...] = ()


ROUND = (
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
)

ABLATED_REPLAYS = (
    # what each state is worth without the role's message: only where the estimator asks for it
    Step("ablated_replay", ABLATED_REPLAY, ("problems", "freeze", "replay")),
    Step("ablated_grade", GRADE, ("problems", "ablated_replay")),
)

EVALUATION = (
    Step("heldout", HELDOUT),
    # one greedy answer per held-out problem under pi_theta
    Step("answer", ANSWER, ("heldout",)),
    Step("answer_grade", GRADE, ("heldout", "answer")),
    Step("evaluate", EVALUATE, ("heldout", "answer", "answer_grade")),
)

VALUES = (
    # V(h) and Q(h, a), learned from the other problems' returns: only where the estimator reads them
    Step("critic", CRITIC, ("freeze", "rollout", "sample", "replay", "grade")),
)

DIAGNOSIS = (
    # independent replays of the round's alternatives under its own pi_b: none, unless they were asked for
    Step("independent_replay", INDEPENDENT_REPLAY, ("problems", "freeze", "rollout", "sample", "replay")),
    Step("independent_grade", GRADE, ("problems", "independent_replay")),
    Step(
        "diagnose",
        DIAGNOSE,
        ("rollout", "sample", "replay", "grade", "advantages", "independent_replay", "independent_grade"),
    ),
)
"""Nothing of it flows back: no step of a round reads these."""

INTERVENTION_STEPS = (
    # a message of one's own at frozen states, and what follows it under pi_b: once per question asked
    Step("intervention", INTERVENTION, ("problems", "freeze", "replay")),
    Step("intervention_grade", GRADE, ("problems", "intervention")),
)
"""Nothing of it flows back either. A round has as many of these as were asked, so they are no part of its record's steps."""

_BEFORE = next(place for place, step in enumerate(ROUND) if step.stage is ADVANTAGES)

EVERYTHING = (*ROUND[:_BEFORE], *ABLATED_REPLAYS, *VALUES, *ROUND[_BEFORE:], *EVALUATION, *DIAGNOSIS)
"""What a round or an evaluation has one of."""


def round_steps(config: Config) -> tuple[Step, ...]:
    """The round under a configuration: an estimator that asks for ablated replays or learned values gets and reads them."""
    estimator = config.advantages.estimator
    more = (
        *(ABLATED_REPLAYS if requires_ablated_replays(estimator) else ()),
        *(VALUES if requires_critic(estimator) else ()),
    )
    credit = ROUND[_BEFORE]
    reading = Step(credit.name, credit.stage, (*credit.inputs, *(step.name for step in more)))
    return (*ROUND[:_BEFORE], *more, reading, *ROUND[_BEFORE + 1 :])


def step_named(name: str) -> Step:
    """The step of that name, in whichever list; with its inputs as an estimator without ablated replays has them."""
    return next(step for step in (*EVERYTHING, *INTERVENTION_STEPS) if step.name == name)


def steps_with(name: str) -> tuple[Step, ...]:
    """The list that the step of that name is in."""
    return next(
        steps
        for steps in (ROUND, ABLATED_REPLAYS, VALUES, EVALUATION, DIAGNOSIS, INTERVENTION_STEPS)
        if name in names(steps)
    )


def names(steps: tuple[Step, ...] = ROUND) -> list[str]:
    """The steps' names, in order."""
    return [step.name for step in steps]
