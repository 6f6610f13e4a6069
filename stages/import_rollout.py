"""Imported transcripts: what another system rolled out, as this round's rollout. Credited from freeze on.

Reads problems and a JSONL file; writes transcripts and decisions like the rollout stage. One line per episode:

    {"problem_id": "...", "messages": {"reasoner": "text", "actor": {"text": "...", "token_ids": [...], "logprobs": [...]}}}

Every problem needs as many episodes as the plan's transcripts. Whoever imports says with it that the messages were
sampled by the policy the round starts from: alternatives are compared with them, and the update measures the gap
wherever log-probs are given.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.roles import Role
from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.keys import answers_slice, prompts_slice
from stages.base.parts import one_part
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.episodes.rows import episode_row, in_order
from stages.episodes.state import State, render
from stages.models.identity import codec_identity
from stages.models.protocol import Codec
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Row, StageOutput
from store.disk.hashing import file_digest
from store.disk.ids import context_id, decision_id, state_id


def imported(path: Path) -> Stage[Job]:
    """The rollout stage that takes its messages from a file."""

    def config_slice(job: Job) -> dict[str, Any]:
        return {
            "file": file_digest(path),
            "round": job.round,
            "prompts": prompts_slice(job),
            "answers": answers_slice(job),
            "seed": job.config.seed,
        }

    def make(part: Part, job: Job, resources: Resources) -> StageOutput:
        reader = _Reader(path, job, resources.codec(job.config))
        transcripts, decisions = reader.read()
        order = list(dict.fromkeys(row["problem_id"] for row in transcripts))
        return StageOutput({"transcripts": in_order(transcripts, order), "decisions": in_order(decisions, order)})

    return Stage("rollout", 1, ("transcripts", "decisions"), config_slice, one_part, make, weights="samples")


class _Reader:
    """Reads the file line by line; ConfigError naming line, field and cure."""

    def __init__(self, path: Path, job: Job, codec: Codec) -> None:
        self._path = path
        self._job = job
        self._codec = codec

    def read(self) -> tuple[list[Row], list[Row]]:
        """Transcript and decision rows of every episode in the file."""
        transcripts: list[Row] = []
        decisions: list[Row] = []
        episodes: defaultdict[str, int] = defaultdict(int)
        for number, line in enumerate(self._path.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                entry = self._entry(number, line)
                draw = episodes[entry["problem_id"]]
                episodes[entry["problem_id"]] += 1
                rows, transcript = self._episode(
                    number, self._job.problems[entry["problem_id"]], entry["messages"], draw
                )
                decisions += rows
                transcripts.append(transcript)
        wanted = self._job.tree.transcripts
        for problem_id, count in episodes.items():
            if count != wanted:
                raise ConfigError(
                    f"{self._path}: problem {problem_id} has {count} episodes, the plan wants {wanted} transcripts a "
                    f"problem; change the file or the plan"
                )
        if not transcripts:
            raise ConfigError(f"{self._path}: holds no episode; write one JSON object a line")
        return transcripts, decisions

    def _entry(self, number: int, line: str) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{self._path}, line {number}: not JSON ({error}); write one object a line") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("messages"), dict):
            raise ConfigError(f"{self._path}, line {number}: needs problem_id and messages (role -> text)")
        if entry.get("problem_id") not in self._job.problems:
            raise ConfigError(
                f"{self._path}, line {number}: problem_id {entry.get('problem_id')!r} is not in the run's problem set; "
                f'`c3 sql "select problem_id from problems"` lists it'
            )
        return entry

    def _episode(self, number: int, problem: Problem, messages: Mapping[str, Any], draw: int) -> tuple[list[Row], Row]:
        state, rows = State(problem, (), ()), []
        last: tuple[State, Row] | None = None
        for depth, role in enumerate(self._job.roles):
            if role.name not in messages:
                raise ConfigError(f"{self._path}, line {number}: no message of role '{role.name}'")
            row = self._decision(number, role, state, messages[role.name], draw if depth == 0 else 0)
            rows.append(row)
            last = (state, row)
            state = state.after(row)
        assert last is not None
        return rows, episode_row(last, [row["decision_id"] for row in rows])

    def _decision(self, number: int, role: Role, state: State, message: Any, draw: int) -> Row:
        given = message if isinstance(message, dict) else {"text": message}
        if not isinstance(given.get("text"), str):
            raise ConfigError(f"{self._path}, line {number}: the message of '{role.name}' has no text")
        token_ids = list(given.get("token_ids") or self._codec.encode_message(given["text"]))
        logprobs = given.get("logprobs")
        if logprobs is not None and len(logprobs) != len(token_ids):
            raise ConfigError(
                f"{self._path}, line {number}: '{role.name}' has {len(logprobs)} logprobs for {len(token_ids)} tokens"
            )
        prompt = render(role, state, self._codec)
        path, draws, weights = (*state.path, draw), self._job.draws, self._job.weights
        return {
            "decision_id": decision_id(draws, state.problem.problem_id, path),
            "state_id": state_id(draws, state.problem.problem_id, state.path),
            "context_id": context_id(role.name, codec_identity(self._job.config.engine), prompt),
            "problem_id": state.problem.problem_id,
            "role": role.name,
            "depth": len(path),
            "path": list(path),
            "draw": draw,
            "is_logged": True,
            "token_ids": token_ids,
            "behaviour_logprobs": logprobs,
            "text": given["text"],
            "finish_reason": given.get("finish_reason", "stop"),
            "prompt_tokens": len(prompt),
            "new_tokens": len(token_ids),
            "seed": None,
            "policy": role.policy,
            "policy_digest": weights.adapters[role.policy].digest,
            "policy_version": weights.version,
        }
