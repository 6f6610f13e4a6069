"""Replay: continue every alternative to its ends, under the same frozen policy.

Reads problems, contexts and decisions; writes replays (one continuation), the decisions of their messages, and the
contexts of the states where they branch. An alternative of the last role ends its episode by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.base.draw_tree import Continuation
from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import answers_slice, prompts_slice, sampling_slice
from stages.base.parts import cut_by_problem_of
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.rows import context_row, episode_row, in_order, usage_of
from stages.episodes.state import State, frozen_state
from stages.episodes.team import Team
from store.artifacts.artifact import Row, StageOutput
from store.disk.ids import decision_id, state_id


def _slice(job: Job) -> dict[str, Any]:
    return {
        "seed": job.config.seed,
        "round": job.round,
        "problems_per_part": job.config.parts.problems_per_part,
        "transcripts": job.tree.transcripts,
        "siblings": list(job.tree.siblings),
        "replays": None if job.tree.replays is None else list(job.tree.replays),
        "prompts": prompts_slice(job),
        "answers": answers_slice(job),
        "sampling": sampling_slice(job),
    }


Growing = tuple[State, Row, Continuation]
"""A state reached by a replay, the alternative it continues, and how that one is continued."""


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    states = {row["state_id"]: row for row in job.rows_of("contexts", part)}
    # depth -> what waits for the role of that depth; an alternative starts at the depth after its own
    waiting: list[list[Growing]] = [[] for _ in range(job.tree.depth + 1)]
    replays: list[Row] = []
    for alternative in job.rows_of("decisions", part):
        continuation = job.tree.continuation(tuple(alternative["path"]))
        if continuation is None:
            continue
        state = frozen_state(states[alternative["state_id"]], job.problems[alternative["problem_id"]])
        if alternative["depth"] == job.tree.depth:
            replays.append(_replay_row(job, (state, alternative), alternative))
        else:
            waiting[alternative["depth"]].append((state.after(alternative), alternative, continuation))
    decisions, contexts = _grow(job, resources, waiting, replays)
    return StageOutput(
        {
            "replays": in_order(replays, part.problem_ids),
            "decisions": in_order(decisions, part.problem_ids),
            "contexts": in_order(contexts, part.problem_ids),
        },
        usage=usage_of(decisions, len(replays)),
    )


def _grow(
    job: Job, resources: Resources, waiting: list[list[Growing]], replays: list[Row]
) -> tuple[list[Row], list[Row]]:
    """Let each role speak once at all the states that wait for it; the last role's messages end in `replays`."""
    decisions: list[Row] = []
    contexts: list[Row] = []
    if not any(waiting):
        return decisions, contexts
    team = Team(job, resources.engine(job.config, job.weights))
    for depth, growing in enumerate(waiting[: job.tree.depth]):
        draws = [_draws(entry, depth) for entry in growing]
        for (state, _, _), wanted in zip(growing, draws, strict=True):
            if job.tree.replays is None and len(wanted) > 1:  # a group: the update will need its context
                of_state = state_id(job.draws, state.problem.problem_id, state.path)
                contexts.append(context_row(job, resources.codec(job.config), state, of_state))
        sampled = team.sample_messages([state for state, _, _ in growing], draws, resources.on_message)
        for (state, alternative, continuation), rows in zip(growing, sampled, strict=True):
            decisions += rows
            if depth + 1 == job.tree.depth:
                replays += [_replay_row(job, (state, row), alternative) for row in rows]
            else:
                waiting[depth + 1] += [(state.after(row), alternative, continuation) for row in rows]
    return decisions, contexts


def _draws(entry: Growing, depth: int) -> Sequence[int]:
    _, alternative, continuation = entry
    below = depth - alternative["depth"]
    return continuation.first_draws if below == 0 else range(continuation.fanout_below[below - 1])


def _replay_row(job: Job, ending: tuple[State, Row], alternative: Row) -> Row:
    problem_id, leaf = alternative["problem_id"], tuple(ending[1]["path"])
    credited = [
        decision_id(job.draws, problem_id, path) for path in job.tree.credited(tuple(alternative["path"]), leaf)
    ]
    return {**episode_row(ending, credited), "alternative_id": alternative["decision_id"]}


def _messages(job: Job) -> int:
    per_problem: int = sum(row["messages"] for row in job.tree.spending() if row["stage"] == "replay")
    return per_problem * len({row["problem_id"] for row in job.rows("contexts")})


REPLAY = Stage(
    "replay",
    1,
    ("replays", "decisions", "contexts"),
    _slice,
    cut_by_problem_of("contexts"),
    _make,
    _messages,
    weights="samples",
)
