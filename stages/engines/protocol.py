"""What every engine is to the stages: token ids in, token ids out.

An engine samples messages from a frozen policy version; a codec turns chats into token ids and token ids into text.
Nothing here imports torch, so stages can be planned, keyed and resumed without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stages.models.protocol import Codec
from store.artifacts.policy_version import PolicyVersion

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How a message is drawn. `temperature` 0 is greedy; `top_p` 1 and `top_k` 0 leave the distribution whole."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the messages wanted from it: one completion per seed, in the order of the seeds."""

    prompt_ids: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: SamplingParameters
    policy: str
    """Name of the team's policy that answers (its adapter within the policy version in use)."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled message.

    `token_ids` includes the end token when `finish_reason` is "stop". `logprobs` aligns with `token_ids`: natural
    logarithms under the distribution that was sampled from (temperature and truncation applied). For greedy decoding
    they are those of the untempered softmax.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


class Engine(Protocol):
    """Samples from one policy version at a time."""

    codec: Codec

    def use(self, policy: PolicyVersion) -> None:
        """Sample from these weights from now on. Raises EngineError when they do not belong to this engine's model."""
        ...

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """Return one list per request, one completion per seed. `on_message(n)` is told of n more finished messages.

        Raises EngineError when a request cannot be served (a prompt longer than the context window, say).
        """
        ...

    def check_adapters_allowed(self) -> None:
        """Raise EngineError when the engine cannot take the adapters of a policy that was trained."""
        ...

    def release_memory(self) -> None:
        """Give back, for a learner that is about to load, what memory it may need, and take it again when next used."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...
