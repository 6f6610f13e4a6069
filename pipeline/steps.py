"""The round, as the paper's algorithm box: which stage follows which, and what each is given.

Two lists are the whole wiring. A step is a stage in its place; its inputs are the steps named before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.advantages import ADVANTAGES
from stages.answer import ANSWER
from stages.evaluate import EVALUATE
from stages.freeze import FREEZE
from stages.grade import GRADE
from stages.problems import HELDOUT, PROBLEMS
from stages.replay import REPLAY
from stages.rollout import ROLLOUT
from stages.sample import SAMPLE
from stages.stage import Stage
from stages.update import UPDATE


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

EVALUATION = (
    Step("heldout", HELDOUT),
    # one greedy answer per held-out problem under pi_theta
    Step("answer", ANSWER, ("heldout",)),
    Step("verdict", GRADE, ("heldout", "answer")),
    Step("evaluate", EVALUATE, ("heldout", "answer", "verdict")),
)


def step_named(name: str) -> Step:
    """The step of that name in either list."""
    return next(step for step in (*ROUND, *EVALUATION) if step.name == name)


def steps_with(name: str) -> tuple[Step, ...]:
    """The list that the step of that name is in."""
    return ROUND if name in names() else EVALUATION


def names(steps: tuple[Step, ...] = ROUND) -> list[str]:
    """The steps' names, in order."""
    return [step.name for step in steps]
