"""Solo: what the team earns at a state without the role's message there. Only the ccpo estimator asks for it.

Reads problems and contexts; writes probes (the empty message at a state), replays (one continuation of it) and the decisions of
their messages. Every state of every credited role but the last gets `advantages.solo_replays` continuations, planned and
counted like the round's own. "Without" is the empty message: the roles after it are shown nothing where its message would
stand. After the last role nobody speaks, so an episode without its message has no answer to grade.
"""

from __future__ import annotations

from typing import Any

from stages.base.job import Job, Part
from stages.base.keys import answers_slice, prompts_slice, sampling_slice
from stages.base.parts import cut_problems
from stages.base.resources import Tools
from stages.base.stage import Stage
from stages.episodes.intervention import price, probed
from store.artifacts.artifact import Product, Row


def _slice(job: Job) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_part": job.config.parts.problems,
        "roles": job.tree.taken_away(),
        "replays": job.config.advantages.solo_replays,
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


def _states(job: Job) -> list[Row]:
    roles = set(job.tree.taken_away())
    return [row for row in job.rows("contexts") if row["role"] in roles]


def _cut(job: Job) -> list[Part]:
    return cut_problems(
        list(dict.fromkeys(row["problem_id"] for row in job.rows("contexts"))), job.config.parts.problems
    )


def _make(part: Part, job: Job, tools: Tools) -> Product:
    roles = set(job.tree.taken_away())
    states = [row for row in job.rows_of("contexts", part) if row["role"] in roles]
    return probed(job, tools, states, "", job.config.advantages.solo_replays, "solo", part.problem_ids)


def _messages(job: Job) -> int:
    return price(job, _states(job), job.config.advantages.solo_replays)["messages"]


def _spending(job: Job) -> list[Row]:
    return job.tree.solo_spending(job.config.advantages.solo_replays)


SOLO = Stage(
    "solo", 1, ("probes", "replays", "decisions"), _slice, _cut, _make, _messages, weights="samples", spending=_spending
)
