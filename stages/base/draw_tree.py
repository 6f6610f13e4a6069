"""The tree of draws: which decisions each stage makes, for one problem of one round.

A path of draws names a decision: (0, 2) is the third answer under the first message. The transcripts of the rollout
are the paths (i, 0, ..., 0); sample adds siblings at their states; replay continues alternatives to their leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from configs.plan import EpisodesPlan, PlanConfig, TreePlan
from store.artifacts.artifact import Row
from store.disk.ids import DrawPath


@dataclass(frozen=True, slots=True)
class Continuation:
    """How one alternative is replayed: these draws of the next role, and under each the fanouts that follow."""

    first_draws: tuple[int, ...]
    fanout_below: tuple[int, ...]

    def paths(self, start: DrawPath) -> list[list[DrawPath]]:
        """Return the decisions made under `start`, one list per depth, each in order."""
        if not self.first_draws:
            return []
        levels = [[(*start, draw) for draw in self.first_draws]]
        for fanout in self.fanout_below:
            levels.append([(*path, draw) for path, draw in product(levels[-1], range(fanout))])
        return levels


@dataclass(frozen=True, slots=True)
class DrawTree:
    """A plan, applied to roles in speaking order."""

    roles: tuple[str, ...]
    transcripts: int
    """N: transcripts per problem."""
    siblings: tuple[int, ...]
    """Per depth: alternatives at each logged state, the logged one among them."""
    replays: tuple[int, ...] | None
    """Per depth, for plans whose continuations do not branch: evaluations per alternative. None: they branch."""

    @property
    def depth(self) -> int:
        """Number of roles."""
        return len(self.roles)

    def transcript_paths(self) -> list[DrawPath]:
        """Return the last decisions of the rollout's transcripts."""
        return [(draw, *([0] * (self.depth - 1))) for draw in range(self.transcripts)]

    def is_logged(self, path: DrawPath) -> bool:
        """Return whether a transcript of the rollout took this decision, or passed through the state it leads to."""
        return not path or (path[0] < self.transcripts and not any(path[1:]))

    def new_draws(self, state: DrawPath) -> list[int]:
        """Return the draws that the sample stage adds at a logged state."""
        count = self.siblings[len(state)]
        if state:
            return list(range(1, count))
        # every transcript starts at the one first state, and each asks for its own siblings there
        return list(range(self.transcripts, self.transcripts + self.transcripts * (count - 1)))

    def continuation(self, alternative: DrawPath) -> Continuation | None:
        """Return how the replay stage continues an alternative; None when the rollout's own ending is all it gets."""
        at = len(alternative) - 1
        logged = self.is_logged(alternative)
        below = self.depth - at - 1
        if self.replays is None:
            return None if logged else Continuation(*_split(self.siblings[at + 1 :]))
        if not below:
            return None if logged else Continuation((), ())
        if logged:
            first = self.siblings[at + 1]
            draws = range(first, first + self.replays[at] - 1)
            return Continuation(tuple(draws), (1,) * (below - 1)) if draws else None
        return Continuation(tuple(range(self.replays[at])), (1,) * (below - 1))

    def credited(self, alternative: DrawPath, leaf: DrawPath) -> list[DrawPath]:
        """Return the decisions whose return a replay's evaluation counts towards.

        In a tree every message above a leaf; where continuations do not branch, only the alternative under test.
        """
        if self.replays is None:
            return [leaf[: end + 1] for end in range(len(leaf))]
        return [alternative]

    def new_alternatives(self) -> list[DrawPath]:
        """Return every decision of the sample stage, state by state."""
        states = sorted({path[:end] for path in self.transcript_paths() for end in range(self.depth)}, key=_by_depth)
        return [(*state, draw) for state in states for draw in self.new_draws(state)]

    def spending(self) -> list[Row]:
        """Return what one problem costs, per stage and role, by counting the draws (schema: SPENDING)."""
        logged = [path[:end] for path in self.transcript_paths() for end in range(1, self.depth + 1)]
        sampled = self.new_alternatives()
        continued = [
            (level, path)
            for start in [*logged, *sampled]
            if (continuation := self.continuation(start)) is not None
            for level in continuation.paths(start)
            for path in level
        ]
        replayed = [path for _, path in continued]
        made = {"rollout": logged, "sample": sampled, "replay": replayed}
        rows: list[Row] = []
        for stage, paths in made.items():
            for depth, role in enumerate(self.roles, start=1):
                messages = sum(len(path) == depth for path in paths)
                rows.append(
                    {
                        "stage": stage,
                        "role": role,
                        "depth": depth,
                        "messages": messages,
                        "evaluations": messages if depth == self.depth else 0,
                        "alternatives": messages if stage != "replay" or self.replays is None else 0,
                        "replays": self._replays_at(depth),
                    }
                )
        return rows

    def ablatable_roles(self) -> list[str]:
        """Return the roles without which a state can be replayed: those that get credit, the last aside (nobody would answer)."""
        without = {*self.uncredited(), self.roles[-1]}
        return [role for role in self.roles if role not in without]

    def ablated_spending(self, replays: int) -> list[Row]:
        """Return what one problem costs when every state of the ablatable roles is replayed so often (schema: SPENDING)."""
        removed = [depth for depth, role in enumerate(self.roles) if role in self.ablatable_roles()]
        return [
            {
                "stage": "ablated_replay",
                "role": role,
                "depth": place + 1,
                "messages": replays * sum(self._states_at(depth) for depth in removed if depth < place),
                "evaluations": replays * sum(map(self._states_at, removed)) if place + 1 == self.depth else 0,
                "alternatives": 0,
                "replays": replays,
            }
            for place, role in enumerate(self.roles)
        ]

    def _states_at(self, depth: int) -> int:
        """Return states of a problem at which the role of that depth (from 0) has its alternatives."""
        if depth == 0:
            return 1
        return self.transcripts * (prod(self.siblings[1:depth]) if self.replays is None else 1)

    def _replays_at(self, depth: int) -> int:
        if self.replays is None:
            return prod(self.siblings[depth:])
        return self.replays[depth - 1]

    def uncredited(self) -> list[str]:
        """Return roles that get no credit this round: one draw at each of their states."""
        return [
            role
            for depth, role in enumerate(self.roles)
            if self.siblings[depth] == 1 and not (depth == 0 and self.transcripts > 1)
        ]


def draw_tree(plan: PlanConfig, roles: Sequence[str], round: int) -> DrawTree:
    """Return the tree that a plan spends its budget on in this round."""
    order = tuple(roles)
    if isinstance(plan, TreePlan):
        fanout = plan.fanout_of_round(round)
        return DrawTree(order, fanout[0], (1, *fanout[1:]), None)
    if isinstance(plan, EpisodesPlan):
        return DrawTree(order, plan.budget, (1,) * len(order), None)
    chosen = [plan.roles.get(role) for role in order]
    return DrawTree(
        order,
        plan.transcripts,
        tuple(spend.alternatives if spend else 1 for spend in chosen),
        tuple(spend.replays if spend else 1 for spend in chosen),
    )


def _split(fanout: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (tuple(range(fanout[0])), fanout[1:]) if fanout else ((), ())


def _by_depth(path: DrawPath) -> tuple[int, DrawPath]:
    return len(path), path
