"""`c3 chat`: a person asks, the team of a round answers role by role."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.commands.session import Session
from stages.base.job import Job
from stages.episodes.state import State
from stages.episodes.team import Team
from stages.problem_sources.protocol import Problem
from store.disk.ids import Draws


@dataclass(frozen=True, slots=True)
class Spoken:
    """One role's message."""

    role: str
    text: str
    truncated: bool
    """Cut at its token limit."""


class Chat:
    """The team that a round ended with (0: the untrained one), its model loaded. Nothing is stored."""

    def __init__(self, session: Session, sample: bool = False) -> None:
        """`sample`: draw messages as in training, others each time a question comes again; else greedy."""
        policy = session.resolver.policy_after
        job = Job(session.round.config, max(session.round.ref.round, 1), policy=policy)
        engine = session.context.ready().engine(session.round.config, policy)
        draws = Draws(session.round.config.seed, session.round.ref.round, policy.version, purpose="chat")
        self._roles = len(job.roles)
        self._team = Team(job, engine, draws, greedy=not sample)
        self._sample, self._asked = sample, 0

    def ask(self, question: str) -> Iterator[Spoken]:
        """Yield the team's messages in speaking order, each as soon as it is finished."""
        self._asked += 1
        draw = self._asked if self._sample else 0
        state = State(Problem("chat", "chat", question, ""), (), ())
        for _ in range(self._roles):
            [[decision]] = self._team.sample_messages([state], [[draw]], lambda count: None)
            yield Spoken(decision["role"], decision["text"], decision["finish_reason"] == "length")
            state = state.after(decision)


def chat_lines(message: Spoken) -> list[str]:
    """Return one role's message, its lines below each other."""
    first, *rest = f"{message.role}: {message.text}".split("\n")
    cut = [f"{' ' * len(message.role)}  [cut at its token limit]"] if message.truncated else []
    return [first, *(f"{' ' * len(message.role)}  {line}" for line in rest), *cut]


def questions() -> Iterator[str]:
    """Yield lines from the terminal or a pipe, empty ones skipped, until they end."""
    while True:
        if sys.stdin.isatty():
            print("you: ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
