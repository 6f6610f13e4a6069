"""Continuing: what follows an injected message, played to the end by the frozen policy.

For the stages that ask for further, independent continuations of a message: unbranched, each with draws of its own, so
that given the message they share nothing with each other or with the round's own replays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stages.episodes.rows import episode_row
from stages.episodes.state import State
from stages.episodes.team import Team
from store.artifacts.artifact import Row


@dataclass(frozen=True, slots=True)
class Injected:
    """A message put into a state, and how often it is continued from there."""

    state: State
    """Where it is put: the messages before it."""
    message: Row
    """The message, as a row of decisions; of a message before the last role only decision_id, role, text and draw are read."""
    draws: Sequence[int]
    """The draw of the next role in each continuation; not read after the last role, whose message ends the episode."""


def continuations(
    team: Team, depth: int, injected: Sequence[Injected], on_message: Callable[[int], None]
) -> tuple[list[Row], list[Row]]:
    """Sample every continuation of every injected message: the decisions made, and one row of replays for each ending.

    `depth`: the number of roles. `team` brings the draws: with a purpose of its own (`Draws(..., purpose=...)`) ids and
    seeds are not those of the round. Messages that wait for the same role are sampled together. A replay counts towards
    the injected message alone. Rows come level by level: put them in order.
    """
    decisions: list[Row] = []
    replays: list[Row] = []
    waiting: list[list[tuple[State, Row, Sequence[int]]]] = [[] for _ in range(depth)]
    for one in injected:
        if len(one.state.path) + 1 == depth:
            replays.append(_replay(one.state, one.message, one.message))
        else:
            after = one.state.after(one.message)
            waiting[len(after.path)].append((after, one.message, one.draws))
    for level, growing in enumerate(waiting):
        sampled = team.sample_messages(
            [state for state, _, _ in growing], [draws for _, _, draws in growing], on_message
        )
        for (state, message, _), drawn in zip(growing, sampled, strict=True):
            rows = [{**row, "is_logged": False} for row in drawn]  # no transcript of the rollout took these
            decisions += rows
            if level + 1 == depth:
                replays += [_replay(state, row, message) for row in rows]
            else:
                waiting[level + 1] += [(state.after(row), message, range(1)) for row in rows]
    return decisions, replays


def _replay(state: State, last: Row, message: Row) -> Row:
    return {**episode_row((state, last), [message["decision_id"]]), "alternative_id": message["decision_id"]}
