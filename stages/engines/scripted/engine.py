"""The scripted engine: worlds small enough to enumerate, for tests with known answers and runs without a
model.

A message is one word and an end token. A policy is a softmax table over words:

    logits(h) = spread * z(world_seed, h) + delta[h]          h: the context's token ids; z: standard normals
    pi(a | h) = softmax(logits(h) / temperature)

`z` is the untrained policy, the same for every policy name; `delta` is what was learned, zero for contexts
that were never trained. An adapter directory holds one file, `table.safetensors`: per context a float64
tensor [W] of deltas, named by the context's key. Everything is float64 and a function of what is asked, so
the true Q and V can be computed from `probabilities`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from configs.engines import ScriptedEngineConfig
from configs.errors import EngineError
from stages.engines.protocol import Completion, Request, SamplingParameters
from stages.models.identity import base_digest
from stages.models.protocol import Codec
from stages.models.scripted_codec import END, ScriptedCodec
from stages.models.scripted_world import Vector, context_key, load_table, log_softmax, world_logits
from store.artifacts.policy_version import PolicyVersion
from store.disk.ids import seed_from


@dataclass(frozen=True, slots=True)
class _Distribution:
    """What one context's words are drawn from, for one policy and one way of sampling."""

    cumulative: Vector
    logprobs: Vector
    """-inf where truncated away."""


class ScriptedEngine:
    """Samples words from softmax tables. Implements Engine; also tells its probabilities."""

    codec: Codec

    def __init__(self, config: ScriptedEngineConfig) -> None:
        self.config = config
        self.codec = self._codec = ScriptedCodec(config.words)
        self._base = base_digest(config)
        self._policy: PolicyVersion | None = None
        self._tables: dict[str, dict[str, Vector]] = {}
        self._distributions: dict[tuple[str, str, SamplingParameters], _Distribution] = {}

    def use(self, policy: PolicyVersion) -> None:
        """Sample from these tables. EngineError when they belong to another world."""
        if policy.base != self._base:
            raise EngineError(
                f"policy version {policy.version}: trained in world {policy.base[:12]}, this engine's world "
                f"is {self._base[:12]}; run with the engine section it was trained under"
            )
        if policy == self._policy:
            return
        self._tables = {
            name: load_table(adapter.directory, len(self._codec.words))
            for name, adapter in policy.adapters.items()
            if adapter.directory is not None
        }
        self._policy = policy
        self._distributions.clear()

    def probabilities(self, context_ids: Sequence[int], policy: str, temperature: float = 1.0) -> Vector:
        """Return pi(a | h) for every word, [W], untruncated; at temperature 0 all of it on the greedy word."""
        logits = self._logits(context_key(context_ids), policy)
        if temperature == 0:
            greedy = np.zeros_like(logits)
            greedy[int(logits.argmax())] = 1.0
            return greedy
        return np.exp(log_softmax(logits / temperature))

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """Return one word per seed, by inverse CDF from one uniform that is a function of the seed alone."""
        answers = []
        for request in requests:
            answers.append([self._completion(request, seed) for seed in request.seeds])
            on_message(len(request.seeds))
        return answers

    def check_adapters_allowed(self) -> None:
        """Do nothing: what is trained here can be sampled from here."""

    def release_memory(self) -> None:
        """Do nothing: tables are small."""

    def close(self) -> None:
        """Forget the tables."""
        self._policy = None
        self._tables = {}
        self._distributions.clear()

    def _completion(self, request: Request, seed: int) -> Completion:
        drawn = self._distribution(request)
        uniform = (seed_from("draw", seed) >> 10) / 2**53  # the 53 bits that a float holds exactly
        word = int(np.searchsorted(drawn.cumulative, uniform, side="right"))
        token, logprob = self._codec.first_word + word, float(drawn.logprobs[word])
        if request.sampling.max_new_tokens < 2:  # no room for the end
            return Completion((token,), (logprob,), "length")
        return Completion((token, END), (logprob, 0.0), "stop")

    def _distribution(self, request: Request) -> _Distribution:
        key = context_key(request.prompt_ids)
        cached = self._distributions.get((request.policy, key, request.sampling))
        if cached is None:
            cached = _distribution(self._logits(key, request.policy), request.sampling)
            self._distributions[request.policy, key, request.sampling] = cached
        return cached

    def _logits(self, key: str, policy: str) -> Vector:
        if self._policy is None:
            raise EngineError("scripted engine: no policy version in use; call use() first")
        logits = world_logits(self.config, key)
        delta = self._tables.get(policy, {}).get(key)
        return logits if delta is None else logits + delta


def _distribution(logits: Vector, sampling: SamplingParameters) -> _Distribution:
    if sampling.temperature == 0:  # greedy: the draw is certain, its log-prob is the untempered softmax's
        certain = np.where(np.arange(len(logits)) < int(logits.argmax()), 0.0, 1.0)
        return _Distribution(certain, log_softmax(logits))
    logprobs = log_softmax(_truncated(logits / sampling.temperature, sampling.top_p, sampling.top_k))
    cumulative = np.cumsum(np.exp(logprobs))
    cumulative[np.flatnonzero(np.isfinite(logprobs))[-1] :] = 1.0  # rounding must not leave room for a truncated word
    return _Distribution(cumulative, logprobs)


def _truncated(logits: Vector, top_p: float, top_k: int) -> Vector:
    """Return logits with -inf outside the `top_k` likeliest words, and of those outside the smallest set that
    reaches `top_p`.

    Ties go to the earlier word. The order (k, then p over what is left) is that of transformers and vLLM.
    """
    order = np.argsort(-logits, kind="stable")
    kept = order[:top_k] if top_k else order
    before = np.concatenate([[0.0], np.cumsum(np.exp(log_softmax(logits[kept])))[:-1]])
    kept = kept[before < top_p]
    truncated = np.full_like(logits, -np.inf)
    truncated[kept] = logits[kept]
    return truncated
