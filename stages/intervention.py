"""Intervention: a given message at frozen states of a round, continued by its frozen policy. `c3 what-if` runs it.

Reads problems and contexts; writes interventions (the message at a state), replays (one continuation of it) and the decisions of
their messages. No other step of a round reads any of it. With the empty message it measures what the team earns without
the role's message there.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from configs.errors import ConfigError
from stages.base.inputs import Part
from stages.base.job import Intervention, InterventionJob
from stages.base.keys import answers_slice, prompts_slice, sampling_slice
from stages.base.parts import cut_problems
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.intervention import intervene, intervention_cost
from store.artifacts.artifact import Row, StageOutput
from store.disk.hashing import digest


def _slice(job: InterventionJob) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_part": job.config.parts.problems_per_part,
        "intervention": asdict(_requested(job)),
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


def _requested(job: InterventionJob) -> Intervention:
    if job.intervention is None:
        raise ConfigError("intervention: nothing is requested; `c3 what-if` puts a message into a state")
    return job.intervention


def intervention_states(job: InterventionJob) -> list[Row]:
    """Return the frozen states that the message is put into, in the contexts' order."""
    requested = _requested(job)
    return [
        row for row in job.rows("contexts") if requested.role in (None, row["role"]) and _is_requested(requested, row)
    ]


def _is_requested(requested: Intervention, context: Row) -> bool:
    return requested.state_id in (None, context["state_id"])


def _cut(job: InterventionJob) -> list[Part]:
    return cut_problems(
        list(dict.fromkeys(row["problem_id"] for row in intervention_states(job))), job.config.parts.problems_per_part
    )


def _make(part: Part, job: InterventionJob, resources: Resources) -> StageOutput:
    requested = _requested(job)
    states = [row for row in intervention_states(job) if row["problem_id"] in part.problem_ids]
    # every intervention has draws of its own: two at one state are continued independently
    purpose = f"intervention {digest(asdict(requested))[:16]}"
    return intervene(job, resources, states, requested.text, requested.replays, purpose, part.problem_ids)


def requested_cost(job: InterventionJob) -> dict[str, int]:
    """Return what the intervention costs: states, evaluations, messages, and new tokens at most."""
    return intervention_cost(job, intervention_states(job), _requested(job).replays)


def _messages(job: InterventionJob) -> int:
    return requested_cost(job)["messages"]


INTERVENTION = Stage(
    "intervention",
    1,
    ("interventions", "replays", "decisions"),
    _slice,
    _cut,
    _make,
    _messages,
    weights="samples",
    job_type=InterventionJob,
)
