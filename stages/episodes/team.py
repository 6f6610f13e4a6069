"""The team at work: rendering what a role sees, and sampling its messages there from an engine.

Shared by every stage that generates; a message is a function of its state, its draw and the policy, whichever stage
samples it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from configs.roles import Role
from stages.base.job import Job
from stages.engines.protocol import Completion, Engine, Request, SamplingParameters
from stages.episodes.state import State, render
from stages.models.identity import codec_identity
from store.artifacts.artifact import Row
from store.disk.ids import Draws, context_id, decision_id, state_id


class Team:
    """Sample messages for the roles of a job: states and draws in, decision rows out."""

    def __init__(self, job: Job, engine: Engine, draws: Draws | None = None, greedy: bool = False) -> None:
        self._job = job
        self._engine = engine
        self._codec_identity = codec_identity(job.config.engine)
        self._draws = draws or job.draws
        self._greedy = greedy

    def sample_messages(
        self, states: Sequence[State], draws: Sequence[Sequence[int]], on_message: Callable[[int], None]
    ) -> list[list[Row]]:
        """Sample one decision per draw at each state. All states wait for the same role, so one call serves them."""
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
        """Sample as `sample_messages` does, where the contexts are already frozen as token ids."""
        sampling = self._sampling(role)
        requests = [
            Request(prompt, tuple(self._seed(state, draw, role) for draw in requested), sampling, role.policy)
            for state, prompt, requested in zip(states, prompts, draws, strict=True)
        ]
        answers = self._engine.generate(requests, on_message)
        return [
            [
                self._decision(role, state, draw, request, seed, completion)
                for draw, seed, completion in zip(requested, request.seeds, completions, strict=True)
            ]
            for state, requested, request, completions in zip(states, draws, requests, answers, strict=True)
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
        sampled = team.sample_messages(level, [draws] * len(level), on_message)
        pairs = [(state, row) for state, rows in zip(level, sampled, strict=True) for row in rows]
        decisions += [row for _, row in pairs]
        if depth == len(fanouts) - 1:
            endings = pairs
        level = [state.after(row) for state, row in pairs]
    return decisions, endings
