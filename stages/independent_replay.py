"""Independent replay: more replays of a round's alternatives, under the same frozen policy, to measure its credit against.

Reads problems, contexts, transcripts, decisions and replays; writes replays and the decisions of their messages. Each
alternative of a group gets the same number of continuations, unbranched, with seeds of their own. They are for
measuring only: no advantage and no update reads them. An alternative of the last role ends its episode, so a replay of it
would only be graded again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from stages.base.inputs import Part
from stages.base.job import IndependentReplayJob
from stages.base.keys import answers_slice, prompts_slice, sampling_slice
from stages.base.parts import cut_by_problem_of
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.continuation import Injected, continuations
from stages.episodes.rows import in_order, usage_of
from stages.episodes.state import frozen_state
from stages.episodes.team import Team
from store.artifacts.artifact import Row, StageOutput
from store.disk.ids import Draws


def _slice(job: IndependentReplayJob) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_part": job.config.parts.problems_per_part,
        "count": job.count,
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


def _compared(job: IndependentReplayJob, decisions: list[Row], ended: list[Row]) -> list[Row]:
    """Return the decisions before the last role that a group of two or more holds, in the order given.

    `ended`: transcripts and replays. An alternative is what a return counts towards.
    """
    credited = {decision_id for episode in ended for decision_id in episode["credited"]}
    alternatives = [row for row in decisions if row["decision_id"] in credited and row["depth"] < job.tree.depth]
    sizes = Counter(row["state_id"] for row in alternatives)
    return [row for row in alternatives if sizes[row["state_id"]] >= 2]


def _make(part: Part, job: IndependentReplayJob, resources: Resources) -> StageOutput:
    decisions: list[Row] = []
    replays: list[Row] = []
    ended = [*job.rows_of("transcripts", part), *job.rows_of("replays", part)]
    compared = _compared(job, job.rows_of("decisions", part), ended)
    states = {row["state_id"]: row for row in job.rows_of("contexts", part)}
    for depth in range(1, job.tree.depth) if job.count else ():
        injected = [
            Injected(
                frozen_state(states[row["state_id"]], job.problems[row["problem_id"]]),
                row,
                range(job.count),
            )
            for row in compared
            if row["depth"] == depth
        ]
        if injected:
            made = continuations(_team(job, resources, depth), job.tree.depth, injected, resources.on_message)
            decisions, replays = [*decisions, *made[0]], [*replays, *made[1]]
    return StageOutput(
        {"replays": in_order(replays, part.problem_ids), "decisions": in_order(decisions, part.problem_ids)},
        usage=usage_of(decisions, len(replays)),
    )


def _team(job: IndependentReplayJob, resources: Resources, depth: int) -> Team:
    """Return the team that continues the messages of one role, with draws of its own: paths of two roles may be equal."""
    purpose = f"independent_replay {job.tree.roles[depth - 1]}"
    draws = Draws(job.config.seed, job.round, job.weights.version, job.draw_set, purpose)
    return Team(job, resources.engine(job.config, job.weights), draws)


def single_replay_cost(job: IndependentReplayJob) -> dict[str, int]:
    """Return what one replay of each costs: alternatives (each one evaluation), messages, and new tokens at most."""
    compared = _compared(job, job.rows("decisions"), [*job.rows("transcripts"), *job.rows("replays")])
    following = [role for row in compared for role in job.roles[row["depth"] :]]
    tokens = sum(job.config.max_new_tokens(role) for role in following)
    return {"alternatives": len(compared), "messages": len(following), "tokens_at_most": tokens}


def _messages(job: IndependentReplayJob) -> int:
    return single_replay_cost(job)["messages"] * job.count if job.count else 0


INDEPENDENT_REPLAY = Stage(
    "independent_replay",
    1,
    ("replays", "decisions"),
    _slice,
    cut_by_problem_of("contexts"),
    _make,
    _messages,
    weights="samples",
    job_type=IndependentReplayJob,
)
