"""Replay states, the messages that led to them, and the prompt that a role sees there."""

from __future__ import annotations

from dataclasses import dataclass

from configs.prompts import fill
from configs.roles import Role
from stages.models.protocol import ChatMessage, Codec
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Row
from store.disk.ids import DrawPath


@dataclass(frozen=True, slots=True)
class Message:
    """A message sampled earlier: what a later role may be shown."""

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
        """Return the state that a decision taken here leads to."""
        message = Message(decision["role"], decision["decision_id"], decision["text"])
        return State(self.problem, (*self.path, decision["draw"]), (*self.upstream, message))


def render(role: Role, state: State, codec: Codec) -> list[int]:
    """Return the exact token ids that `role` sees in `state`: system, few-shot turns, then its template filled."""
    shown = {"question": state.problem.question, **{message.role: message.text for message in state.upstream}}
    chat = [ChatMessage("system", role.system)] if role.system is not None else []
    for turn in role.few_shot:
        chat += [ChatMessage("user", turn.user), ChatMessage("assistant", turn.assistant)]
    chat.append(ChatMessage("user", fill(role.user, shown)))
    return codec.encode(chat)


def frozen_state(context: Row, problem: Problem) -> State:
    """Return the replay state that a row of the contexts table holds."""
    upstream = tuple(Message(m["role"], m["decision_id"], m["text"]) for m in context["upstream"])
    return State(problem, tuple(context["path"]), upstream)
