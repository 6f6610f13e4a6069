"""Rows of the tables that episodes are stored in, and their canonical order."""

from __future__ import annotations

from collections.abc import Sequence

from stages.base.job import Job
from stages.episodes.state import State, render
from stages.models.identity import codec_identity
from stages.models.protocol import Codec
from store.artifacts.artifact import Row
from store.disk.ids import context_id


def context_row(job: Job, codec: Codec, state: State, of_state: str) -> Row:
    """Return a row of the contexts table: the state of that id, its role, and exactly what it sees."""
    role = job.roles[len(state.path)]
    token_ids = render(role, state, codec)
    return {
        "state_id": of_state,
        "context_id": context_id(role.name, codec_identity(job.config.engine), token_ids),
        "problem_id": state.problem.problem_id,
        "role": role.name,
        "depth": len(state.path) + 1,
        "path": list(state.path),
        "token_ids": token_ids,
        "upstream": [
            {"role": message.role, "decision_id": message.decision_id, "text": message.text}
            for message in state.upstream
        ],
        "visit_count": 0,
    }


def episode_row(ending: tuple[State, Row], credited: Sequence[str]) -> Row:
    """Return the columns that transcripts and replays share."""
    state, last = ending
    return {
        "episode_id": last["decision_id"],
        "problem_id": last["problem_id"],
        "path": last["path"],
        "decision_ids": [*(message.decision_id for message in state.upstream), last["decision_id"]],
        "credited": list(credited),
        "output": last["text"],
        "truncated": last["finish_reason"] == "length",
    }


def in_order(rows: Sequence[Row], problem_ids: Sequence[str]) -> list[Row]:
    """Return rows in the tables' canonical order: by problem as the part lists them, then by depth and path of draws."""
    rank = {problem_id: position for position, problem_id in enumerate(problem_ids)}
    return sorted(rows, key=lambda row: (rank[row["problem_id"]], len(row["path"]), row["path"]))


def usage_of(decisions: Sequence[Row], evaluations: int) -> dict[str, int]:
    """Return what a part used: messages, tokens and terminal evaluations."""
    return {
        "messages": len(decisions),
        "prompt_tokens": sum(row["prompt_tokens"] for row in decisions),
        "new_tokens": sum(row["new_tokens"] for row in decisions),
        "evaluations": evaluations,
    }
