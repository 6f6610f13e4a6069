"""Answer: one greedy transcript per problem of a fixed set.

Reads problems; writes transcripts and decisions, which grade and evaluate take from there.
"""

from __future__ import annotations

from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import answers_slice, prompts_slice
from stages.base.parts import cut_problems
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.rows import episode_row, in_order, usage_of
from stages.episodes.state import State
from stages.episodes.team import Team, play
from store.artifacts.artifact import StageOutput
from store.disk.ids import Draws


def _slice(job: Job) -> dict[str, Any]:
    # no seed and no round: a greedy answer is a function of the weights and the prompt
    return {
        "problems_per_part": job.config.parts.answers_per_part,
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
    }


def _cut(job: Job) -> list[Part]:
    return cut_problems(list(job.problems), job.config.parts.answers_per_part)


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    team = Team(
        job, resources.engine(job.config, job.weights), Draws(0, 0, job.weights.version, purpose="answer"), greedy=True
    )
    starts = [State(job.problems[problem_id], (), ()) for problem_id in part.problem_ids]
    decisions, endings = play(team, starts, [range(1)] * len(job.roles), resources.on_message)
    transcripts = [episode_row((state, last), []) for state, last in endings]
    return StageOutput(
        {
            "transcripts": in_order(transcripts, part.problem_ids),
            "decisions": in_order(decisions, part.problem_ids),
        },
        usage=usage_of(decisions, len(transcripts)),
    )


def _messages(job: Job) -> int:
    return len(job.problems) * len(job.roles)


ANSWER = Stage("answer", 1, ("transcripts", "decisions"), _slice, _cut, _make, _messages, weights="samples")
