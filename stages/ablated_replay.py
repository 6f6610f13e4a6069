"""Ablated replay: what the team earns at a state without the role's message there, for estimators that read it.

Reads problems and contexts; writes interventions (the empty message at a state), replays (one continuation of it) and the
decisions of their messages. Every state of every credited role but the last gets `advantages.ablated_replays`
continuations, planned and counted like the round's own. "Without" is the empty message: the roles after it are shown nothing
where its message would stand. No role follows the last one, so an episode without its message has no answer to grade.
"""

from __future__ import annotations

from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import answers_slice, prompts_slice, sampling_slice
from stages.base.parts import cut_problems
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.intervention import intervene, intervention_cost
from store.artifacts.artifact import Row, StageOutput


def _slice(job: Job) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_part": job.config.parts.problems_per_part,
        "roles": job.tree.ablatable_roles(),
        "replays": job.config.advantages.ablated_replays,
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


def _states(job: Job) -> list[Row]:
    roles = set(job.tree.ablatable_roles())
    return [row for row in job.rows("contexts") if row["role"] in roles]


def _cut(job: Job) -> list[Part]:
    return cut_problems(
        list(dict.fromkeys(row["problem_id"] for row in job.rows("contexts"))), job.config.parts.problems_per_part
    )


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    roles = set(job.tree.ablatable_roles())
    states = [row for row in job.rows_of("contexts", part) if row["role"] in roles]
    return intervene(
        job, resources, states, "", job.config.advantages.ablated_replays, "ablated_replay", part.problem_ids
    )


def _messages(job: Job) -> int:
    return intervention_cost(job, _states(job), job.config.advantages.ablated_replays)["messages"]


def _spending(job: Job) -> list[Row]:
    return job.tree.ablated_spending(job.config.advantages.ablated_replays)


ABLATED_REPLAY = Stage(
    "ablated_replay",
    1,
    ("interventions", "replays", "decisions"),
    _slice,
    _cut,
    _make,
    _messages,
    weights="samples",
    spending=_spending,
)
