"""The team at work: rendering what a role sees, and asking an engine for what it says there.

Shared by every stage that generates; a message is a function of its state, its draw and the policy, whichever stage
asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.prompts import fill
from configs.schema import Role
from stages.engines.make import codec_identity
from stages.engines.protocol import ChatMessage, Codec, Completion, Engine, Request, SamplingParameters
from stages.problem_sources.protocol import Problem
from stages.stage import Job
from store.artifacts import Row
from store.identity import DrawPath, Draws, context_id, decision_id, state_id


@dataclass(frozen=True, slots=True)
class Message:
    """A message already spoken: what a later role may be shown."""

    role: str
    decision_id: str
    text: str


@dataclass(frozen=True, slots=True)
class State:
    """A replay state: a problem, the draws taken so far, and the messages they led to."""

    problem: Problem
    path: DrawPath
    upstream: tuple[Message, ...]

    def after(self, decision: Row) -> State:
        """The state that a decision taken here leads to."""
        message = Message(decision["role"], decision["decision_id"], decision["text"])
        return State(self.problem, (*self.path, decision["draw"]), (*self.upstream, message))


def render(role: Role, state: State, codec: Codec) -> list[int]:
    """The exact token ids that `role` sees in `state`: system, few-shot turns, then its template filled."""
    shown = {"question": state.problem.question, **{message.role: message.text for message in state.upstream}}
    chat = [ChatMessage("system", role.system)] if role.system is not None else []
    for turn in role.few_shot:
        chat += [ChatMessage("user", turn.user), ChatMessage("assistant", turn.assistant)]
    chat.append(ChatMessage("user", fill(role.user, shown)))
    return codec.encode(chat)


class Team:
    """Speaks for the roles of a job: states and draws in, decision rows out."""

    def __init__(self, job: Job, engine: Engine, draws: Draws | None = None, greedy: bool = False) -> None:
        self._job = job
        self._engine = engine
        self._codec_identity = codec_identity(job.config.engine)
        self._draws = draws or job.draws
        self._greedy = greedy

    def speak(
        self, states: Sequence[State], draws: Sequence[Sequence[int]], on_message: Callable[[int], None]
    ) -> list[list[Row]]:
        """One decision per draw at each state. All states wait for the same role, so one call serves them."""
        if not states:
            return []
        role = self._job.roles[len(states[0].path)]
        prompts = [tuple(render(role, state, self._engine.codec)) for state in states]
        return self.answer(role, states, prompts, draws, on_message)

    def answer(
        self,
        role: Role,
        states: Sequence[State],
        prompts: Sequence[tuple[int, ...]],
        draws: Sequence[Sequence[int]],
        on_message: Callable[[int], None],
    ) -> list[list[Row]]:
        """The same, where the contexts are already frozen as token ids."""
        sampling = self._sampling(role)
        requests = [
            Request(prompt, tuple(self._seed(state, draw, role) for draw in wanted), sampling, role.policy)
            for state, prompt, wanted in zip(states, prompts, draws, strict=True)
        ]
        answers = self._engine.generate(requests, on_message)
        return [
            [
                self._decision(role, state, draw, request, seed, completion)
                for draw, seed, completion in zip(wanted, request.seeds, completions, strict=True)
            ]
            for state, wanted, request, completions in zip(states, draws, requests, answers, strict=True)
        ]

    def _seed(self, state: State, draw: int, role: Role) -> int:
        return self._draws.seed_of(state.problem.problem_id, (*state.path, draw), role.name)

    def _sampling(self, role: Role) -> SamplingParameters:
        config = self._job.config.sampling
        limit = self._job.config.max_new_tokens(role)
        if self._greedy:
            return SamplingParameters(0.0, 1.0, 0, limit)
        return SamplingParameters(config.temperature, config.top_p, config.top_k, limit)

    def _decision(
        self, role: Role, state: State, draw: int, request: Request, seed: int, completion: Completion
    ) -> Row:
        path = (*state.path, draw)
        draws, problem_id, weights = self._draws, state.problem.problem_id, self._job.weights
        return {
            "decision_id": decision_id(draws, problem_id, path),
            "state_id": state_id(draws, problem_id, state.path),
            "context_id": context_id(role.name, self._codec_identity, request.prompt_ids),
            "problem_id": problem_id,
            "role": role.name,
            "depth": len(path),
            "path": list(path),
            "draw": draw,
            "is_logged": self._job.tree.is_logged(path),
            "token_ids": list(completion.token_ids),
            "behaviour_logprobs": list(completion.logprobs),
            "text": self._engine.codec.decode(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "prompt_tokens": len(request.prompt_ids),
            "new_tokens": len(completion.token_ids),
            "seed": seed,
            "policy": role.policy,
            "policy_digest": weights.adapters[role.policy].digest,
            "policy_version": weights.version,
        }


def context_row(job: Job, codec: Codec, state: State, of_state: str) -> Row:
    """A row of the contexts table: the state of that id, its role, and exactly what it sees."""
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
        "times_seen": 0,
    }


def frozen_state(context: Row, problem: Problem) -> State:
    """The replay state that a row of the contexts table holds."""
    upstream = tuple(Message(m["role"], m["decision_id"], m["text"]) for m in context["upstream"])
    return State(problem, tuple(context["path"]), upstream)


def play(
    team: Team, states: Sequence[State], fanouts: Sequence[Sequence[int]], on_message: Callable[[int], None]
) -> tuple[list[Row], list[tuple[State, Row]]]:
    """Play on from each state, role by role: `fanouts[d]` are the draws at every state of the d-th role from here.

    Returns every decision made, and each ending as the state before the last decision with that decision.
    """
    decisions: list[Row] = []
    endings: list[tuple[State, Row]] = []
    level = list(states)
    for depth, draws in enumerate(fanouts):
        spoken = team.speak(level, [draws] * len(level), on_message)
        pairs = [(state, row) for state, rows in zip(level, spoken, strict=True) for row in rows]
        decisions += [row for _, row in pairs]
        if depth == len(fanouts) - 1:
            endings = pairs
        level = [state.after(row) for state, row in pairs]
    return decisions, endings


def episode_row(ending: tuple[State, Row], credited: Sequence[str]) -> Row:
    """The columns that transcripts and replays share."""
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
    """The tables' canonical order: by problem as the part lists them, then by depth and path of draws."""
    rank = {problem_id: position for position, problem_id in enumerate(problem_ids)}
    return sorted(rows, key=lambda row: (rank[row["problem_id"]], len(row["path"]), row["path"]))


def spent(decisions: Sequence[Row], evaluations: int) -> dict[str, int]:
    """The ledger of a part."""
    return {
        "messages": len(decisions),
        "prompt_tokens": sum(row["prompt_tokens"] for row in decisions),
        "new_tokens": sum(row["new_tokens"] for row in decisions),
        "evaluations": evaluations,
    }
