"""The tabular learner: trains the scripted engine's softmax tables.

    log pi(a | h) = log_softmax((world_logits(h) + delta[h]) / temperature)[a]

One parameter per context, float64 [W], named by the context's key: a context that was never trained costs
nothing and has delta 0. The end token is certain, so its log-prob is 0 and carries no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from configs.engines import ScriptedEngineConfig
from configs.errors import UpdateError
from stages.learners.protocol import HiddenStates, Scored, TrainRow
from stages.models.scripted_codec import END, ScriptedCodec
from stages.models.scripted_world import Vector, context_key, load_table, save_table, world_logits
from store.artifacts.policy_version import PolicyVersion


class TabularLearner:
    """Holds every policy's table of deltas. Implements Learner."""

    def __init__(self, config: ScriptedEngineConfig) -> None:
        self._config = config
        self._first_word = ScriptedCodec(config.words).first_word
        self._tables: dict[str, dict[str, torch.nn.Parameter]] = {}

    def load(self, policy: PolicyVersion, seed: int) -> None:
        """Start from these tables. The seed is unused: a context that the version lacks starts at delta 0."""
        self._tables = {}
        for name in sorted(policy.adapters):
            directory = policy.adapters[name].directory
            table = load_table(directory, len(self._config.words)) if directory is not None else {}
            self._tables[name] = {key: _parameter(delta) for key, delta in table.items()}

    def prepare(self, rows: Sequence[TrainRow]) -> None:
        """Make a parameter, delta 0, for every context of the rows that has none. Call it before the
        optimiser is made."""
        for row in rows:
            table = self._tables.setdefault(row.policy, {})
            key = context_key(row.context_ids)
            if key not in table:
                table[key] = _parameter(np.zeros(len(self._config.words)))

    def named_parameters(self, policy: str) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Return one parameter [W] per known context, in the order of their keys."""
        return sorted(self._tables.get(policy, {}).items())

    def batches(self, rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
        """Return rows context by context (in order of first appearance), at most `max_tokens` to a batch.

        A context's tokens count once per batch. A row that is longer than `max_tokens` gets a batch of its
        own.
        """
        by_context: dict[tuple[int, ...], list[TrainRow]] = {}
        for row in rows:
            by_context.setdefault(row.context_ids, []).append(row)
        batches: list[list[TrainRow]] = []
        room = 0
        for context_ids, group in by_context.items():
            shared = False  # whether the open batch already holds this context
            for row in group:
                cost = len(row.token_ids) + (0 if shared else len(context_ids))
                if not batches or cost > room:
                    batches.append([])
                    room, cost = max_tokens, len(row.token_ids) + len(context_ids)
                batches[-1].append(row)
                room, shared = room - cost, True
        return batches

    def score(self, rows: Sequence[TrainRow]) -> list[Scored]:
        """Return, per row, [T]: of the word, then 0 (log-prob and entropy) for the end token if there is one.

        Raises UpdateError for tokens that are no message of this world, and, where gradients are wanted, for
        a context that was not prepared: its gradient would be lost without a word.
        """
        return [self._scored(row, self._delta(row)) for row in rows]

    def logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Return the log-probs alone."""
        return [scored.logprob_T for scored in self.score(rows)]

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Return, per row, [T] under the world's own logits; no gradient."""
        return [self._scored(row, None).logprob_T for row in rows]

    @torch.no_grad()
    def read(self, rows: Sequence[TrainRow]) -> list[HiddenStates]:
        """Return, per row, the log-probs of all words [W] at its context, and these with the word said marked [2 W]."""
        return [self._reading(row) for row in rows]

    def _reading(self, row: TrainRow) -> HiddenStates:
        log_pi_W = self._log_pi(row, self._tables.get(row.policy, {}).get(context_key(row.context_ids))).float()
        said_W = torch.zeros_like(log_pi_W)
        said_W[self._word(row)] = 1.0
        return HiddenStates(log_pi_W, torch.cat([log_pi_W, said_W]))

    def save(self, directory: Path) -> dict[str, Path]:
        """Write each policy's table below `directory`; returns policy -> folder."""
        folders = {}
        for name, table in sorted(self._tables.items()):
            folders[name] = directory / name
            save_table(folders[name], {key: delta.detach().numpy() for key, delta in table.items()})
        return folders

    def _delta(self, row: TrainRow) -> torch.Tensor | None:
        delta = self._tables.get(row.policy, {}).get(context_key(row.context_ids))
        if delta is None and torch.is_grad_enabled():
            raise UpdateError(f"decision {row.decision_id}: its context was not prepared; call prepare(rows) first")
        return delta

    def _scored(self, row: TrainRow, delta: torch.Tensor | None) -> Scored:
        word, log_pi_W = self._word(row), self._log_pi(row, delta)
        certain = log_pi_W.new_zeros(len(row.token_ids) - 1)
        entropy = -(log_pi_W.exp() * log_pi_W).sum(-1, keepdim=True)
        return Scored(torch.cat([log_pi_W[word : word + 1], certain]), torch.cat([entropy, certain]))

    def _word(self, row: TrainRow) -> int:
        word = row.token_ids[0] - self._first_word if row.token_ids else -1
        if not 0 <= word < len(self._config.words) or row.token_ids[1:] not in ((), (END,)):
            last_word = self._first_word + len(self._config.words) - 1
            raise UpdateError(
                f"decision {row.decision_id}: tokens {list(row.token_ids)[:8]} are no message of this world: "
                f"one word (ids {self._first_word} to {last_word}) and the end ({END})"
            )
        return word

    def _log_pi(self, row: TrainRow, delta: torch.Tensor | None) -> torch.Tensor:
        logits_W = torch.from_numpy(world_logits(self._config, context_key(row.context_ids)))
        if delta is not None:
            logits_W = logits_W + delta
        return torch.log_softmax(logits_W / row.temperature, dim=-1)


def _parameter(delta: Vector) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(np.array(delta, dtype=np.float64)))
