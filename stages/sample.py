"""Sample: alternatives at the frozen states, under the same frozen policy.

Reads contexts; writes decisions (a message at a state), siblings of the ones the transcripts took.
"""

from __future__ import annotations

from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import answers_slice, sampling_slice
from stages.base.parts import cut_by_problem_of
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.rows import in_order, usage_of
from stages.episodes.state import frozen_state
from stages.episodes.team import Team
from store.artifacts.artifact import Row, StageOutput


def _slice(job: Job) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_part": job.config.parts.problems_per_part,
        "transcripts": job.tree.transcripts,
        "siblings": list(job.tree.siblings),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    team = Team(job, resources.engine(job.config, job.weights))
    decisions: list[Row] = []
    for depth, role in enumerate(job.roles, start=1):
        contexts = [row for row in job.rows_of("contexts", part) if row["depth"] == depth]
        wanted = [(row, draws) for row in contexts if (draws := job.tree.new_draws(tuple(row["path"])))]
        answers = team.answer(
            role,
            [frozen_state(row, job.problems[row["problem_id"]]) for row, _ in wanted],
            [tuple(row["token_ids"]) for row, _ in wanted],
            [draws for _, draws in wanted],
            resources.on_message,
        )
        decisions += [decision for siblings in answers for decision in siblings]
    return StageOutput(
        {"decisions": in_order(decisions, part.problem_ids)},
        # a sibling of the last role ends an episode: replay lists it, at no further cost
        usage=usage_of(decisions, 0),
    )


def _messages(job: Job) -> int:
    problems = len({row["problem_id"] for row in job.rows("contexts")})
    return problems * len(job.tree.new_alternatives())


SAMPLE = Stage("sample", 1, ("decisions",), _slice, cut_by_problem_of("contexts"), _make, _messages, weights="samples")
