"""What every learner is to the update: trainable weights, and the log-probs of stored tokens under them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from configs.errors import UpdateError
from store.artifacts.policy_version import PolicyVersion

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One alternative to learn from: exactly the token ids that were seen and sampled."""

    decision_id: str
    policy: str
    context_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    temperature: float


class Scored(NamedTuple):
    """What the weights say of one alternative's sampled tokens, at its temperature; differentiable."""

    logprob_T: torch.Tensor
    """Natural log-probs of the tokens."""
    entropy_T: torch.Tensor
    """Entropy in nats of the distribution that each token was drawn from."""


class HiddenStates(NamedTuple):
    """What the weights know: the backbone's last hidden states, float32, without gradient. Input of a value head."""

    context_D: torch.Tensor
    """At the context's last token, before anything is said."""
    message_D: torch.Tensor
    """Where the message's last token (the end token, unless it was cut) is about to be said."""


def one_policy(rows: Sequence[TrainRow]) -> str:
    """Return the policy of these rows. UpdateError when they are of several."""
    if len({row.policy for row in rows}) > 1:
        raise UpdateError("learner: rows of several policies in one micro-batch; give one policy's rows at a time")
    return rows[0].policy


class Learner(Protocol):
    """Holds one policy version's weights while they are trained."""

    def load(self, policy: PolicyVersion, seed: int) -> None:
        """Start from these weights; what the version lacks (a first adapter) is initialised from the seed."""
        ...

    def prepare(self, rows: Sequence[TrainRow]) -> None:
        """Make every parameter that these rows train. Call it after `load` and before `named_parameters`.

        A table learner has one parameter per context and must know them before the optimiser is made; where the
        parameters do not depend on the rows this does nothing.
        """
        ...

    def named_parameters(self, policy: str) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Return the trainable parameters of one policy, in a fixed order, by canonical name."""
        ...

    def batches(self, rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
        """Cut rows (of one policy) into micro-batches of at most `max_tokens` tokens, shared context kept together."""
        ...

    def score(self, rows: Sequence[TrainRow]) -> list[Scored]:
        """Return, per row, the log-probs and entropies [T] of its sampled tokens under the weights as they are now."""
        ...

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Return, per row, [T] log-probs under the reference: the model before any training. No gradient."""
        ...

    def read(self, rows: Sequence[TrainRow]) -> list[HiddenStates]:
        """Return, per row, (of one policy) what the weights know at its context and at its message's end. No gradient."""
        ...

    def save(self, directory: Path) -> dict[str, Path]:
        """Write each policy's weights below `directory` (one folder per policy name); returns policy -> folder."""
        ...
