"""Freeze: the contexts of every replay state that the transcripts passed through, as token ids.

Reads problems, transcripts and decisions; writes contexts (a replay state). Each context is rendered again from its
transcript and must be what the role saw, token for token.
"""

from __future__ import annotations

from typing import Any

from configs.errors import StoreError
from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import prompts_slice
from stages.base.parts import cut_by_problem_of
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.rows import context_row, in_order
from stages.episodes.state import State
from stages.models.identity import codec_identity
from store.artifacts.artifact import Row, StageOutput


def _slice(job: Job) -> dict[str, Any]:
    return {
        "problems_per_part": job.config.parts.problems_per_part,
        "prompts": prompts_slice(job),
        "codec": codec_identity(job.config.engine),
    }


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    codec = resources.codec(job.config)
    decisions = {row["decision_id"]: row for row in job.rows_of("decisions", part)}
    contexts: dict[str, Row] = {}
    for transcript in job.rows_of("transcripts", part):
        state = State(job.problems[transcript["problem_id"]], (), ())
        for taken in (decisions[decision_id] for decision_id in transcript["decision_ids"]):
            frozen = contexts.get(taken["state_id"])
            if frozen is None:
                frozen = contexts[taken["state_id"]] = context_row(job, codec, state, taken["state_id"])
            if frozen["context_id"] != taken["context_id"]:
                raise StoreError(
                    f"freeze: {taken['role']} of decision {taken['decision_id']} saw context {taken['context_id']}, but its "
                    f"transcript renders to {frozen['context_id']}; the tokenizer or a prompt is not the one that sampled it"
                )
            frozen["visit_count"] += 1
            state = state.after(taken)
    return StageOutput({"contexts": in_order(list(contexts.values()), part.problem_ids)})


FREEZE = Stage("freeze", 1, ("contexts",), _slice, cut_by_problem_of("transcripts"), _make)
