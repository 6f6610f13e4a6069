"""Rollout: N transcripts per problem under the frozen policy.

Reads problems; writes transcripts (an episode) and decisions (a message).
"""

from __future__ import annotations

from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import answers_slice, prompts_slice, sampling_slice
from stages.base.parts import cut_problems, selected_problems
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.rows import episode_row, in_order, usage_of
from stages.episodes.state import State
from stages.episodes.team import Team, play
from store.artifacts.artifact import StageOutput


def _slice(job: Job) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_round": job.config.rounds.problems_per_round,
        "problems_per_part": job.config.parts.problems_per_part,
        "transcripts": job.tree.transcripts,
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


def _cut(job: Job) -> list[Part]:
    return cut_problems(selected_problems(job), job.config.parts.problems_per_part)


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    team = Team(job, resources.engine(job.config, job.weights))
    starts = [State(job.problems[problem_id], (), ()) for problem_id in part.problem_ids]
    fanouts = [range(job.tree.transcripts), *([range(1)] * (job.tree.depth - 1))]
    decisions, endings = play(team, starts, fanouts, resources.on_message)
    transcripts = [
        episode_row((state, last), [*(message.decision_id for message in state.upstream), last["decision_id"]])
        for state, last in endings
    ]
    return StageOutput(
        {
            "transcripts": in_order(transcripts, part.problem_ids),
            "decisions": in_order(decisions, part.problem_ids),
        },
        usage=usage_of(decisions, len(transcripts)),
    )


def _messages(job: Job) -> int:
    return len(selected_problems(job)) * job.tree.transcripts * job.tree.depth


ROLLOUT = Stage("rollout", 1, ("transcripts", "decisions"), _slice, _cut, _make, _messages, weights="samples")
