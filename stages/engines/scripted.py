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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from configs.errors import ConfigError, EngineError, StoreError
from configs.schema import ScriptedEngineConfig
from stages.engines.protocol import ChatMessage, Codec, Completion, Request, SamplingParameters
from store.identity import digest, seed_from
from store.policies import PolicyVersion

Vector = npt.NDArray[np.float64]
"""[W]: one number per word of the world, in the order of its configuration."""

END = 256
"""Ends a message and every turn of a chat; 0 to 255 are the bytes of UTF-8 text."""

TABLE_FILE = "table.safetensors"
_TURNS = ("system", "user", "assistant")
_NORMAL = NormalDist()


class ScriptedCodec:
    """Bytes for contents, one id per word for messages, one id per kind of turn.

    Ids: 0-255 bytes, 256 the end, then the words, then the turns. Contents become bytes only, so no text can
    forge a turn, an end or a word.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Raises ConfigError when two words would read the same, or one reads as nothing."""
        self.words = tuple(words)
        twice = next((word for word in self.words if self.words.count(word) > 1), None)
        if twice is not None:
            raise ConfigError(f"engine.words: '{twice}' stands twice; words are unique")
        if "" in self.words:
            raise ConfigError("engine.words: a word is empty; write at least one character")
        self.first_word = END + 1
        self._first_turn = self.first_word + len(self.words)

    def encode(self, chat: Sequence[ChatMessage]) -> list[int]:
        """Each turn as [turn id, bytes of its content, end], then the assistant's turn id."""
        ids: list[int] = []
        for message in chat:
            # surrogatepass: text that is no valid Unicode still has one spelling
            ids += [self._turn(message.role), *message.content.encode("utf-8", "surrogatepass"), END]
        return [*ids, self._turn("assistant")]

    def encode_message(self, text: str) -> list[int]:
        """A word and the end; of an empty message the end alone. EngineError when the world does not know the word."""
        if not text:
            return [END]
        if text not in self.words:
            raise EngineError(
                f"scripted codec: '{text}' is no word of this world; its words are {', '.join(self.words)}"
            )
        return [self.word_id(text), END]

    def prompt_text(self, token_ids: Sequence[int]) -> str:
        """The context's text, its turns visible."""
        return self.decode(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text; a final end is dropped, other special ids and bytes that are no UTF-8 stay visible.

        Raises EngineError for an id that is not of this codec.
        """
        ids = list(token_ids[:-1]) if len(token_ids) and token_ids[-1] == END else list(token_ids)
        pieces: list[str] = []
        pending = bytearray()
        for token in ids:
            if 0 <= token < END:
                pending.append(token)
                continue
            pieces += [pending.decode("utf-8", "backslashreplace"), self._piece(token)]
            pending.clear()
        return "".join([*pieces, pending.decode("utf-8", "backslashreplace")])

    def word_id(self, word: str) -> int:
        """The token id of a word."""
        return self.first_word + self.words.index(word)

    def _turn(self, role: str) -> int:
        return self._first_turn + _TURNS.index(role)

    def _piece(self, token: int) -> str:
        if token == END:
            return "<|end|>"
        if self.first_word <= token < self._first_turn:
            return self.words[token - self.first_word]
        if self._first_turn <= token < self._first_turn + len(_TURNS):
            return f"<|{_TURNS[token - self._first_turn]}|>"
        raise EngineError(f"scripted codec: no token has id {token}; ids go to {self._first_turn + len(_TURNS) - 1}")


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
        self.identity: dict[str, Any] = config.model_dump(mode="json")
        self._policy: PolicyVersion | None = None
        self._tables: dict[str, dict[str, Vector]] = {}
        self._distributions: dict[tuple[str, str, SamplingParameters], _Distribution] = {}

    def use(self, policy: PolicyVersion) -> None:
        """Sample from these tables. EngineError when they belong to another world."""
        if policy.base != digest(self.identity):
            raise EngineError(
                f"policy version {policy.version}: trained in world {policy.base[:12]}, this engine's world "
                f"is {digest(self.identity)[:12]}; run with the engine section it was trained under"
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
        """pi(a | h) for every word, [W], untruncated; at temperature 0 all of it on the greedy word."""
        logits = self._logits(context_key(context_ids), policy)
        if temperature == 0:
            greedy = np.zeros_like(logits)
            greedy[int(logits.argmax())] = 1.0
            return greedy
        return np.exp(log_softmax(logits / temperature))

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """One word per seed, by inverse CDF from one uniform that is a function of the seed alone."""
        answers = []
        for request in requests:
            answers.append([self._completion(request, seed) for seed in request.seeds])
            on_message(len(request.seeds))
        return answers

    def make_room(self) -> None:
        """Nothing: tables are small."""

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


def context_key(context_ids: Sequence[int]) -> str:
    """The name of a context in a table: the hash of its token ids."""
    return digest([int(token) for token in context_ids])


def world_logits(config: ScriptedEngineConfig, key: str) -> Vector:
    """The untrained policy's logits [W] in one context: standard normals times `spread`.

    From the hash by the inverse normal CDF, because no library promises its random stream across releases.
    """
    draws = (seed_from("logit", config.world_seed, key, word) >> 11 for word in range(len(config.words)))
    normals = [_NORMAL.inv_cdf((draw + 0.5) / 2**52) for draw in draws]  # 52 bits: never rounded to 0 or 1
    return config.spread * np.array(normals, dtype=np.float64)


def log_softmax(logits: Vector) -> Vector:
    """logits - log sum exp(logits), [W]."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def _distribution(logits: Vector, sampling: SamplingParameters) -> _Distribution:
    if sampling.temperature == 0:  # greedy: the draw is certain, its log-prob is the untempered softmax's
        certain = np.where(np.arange(len(logits)) < int(logits.argmax()), 0.0, 1.0)
        return _Distribution(certain, log_softmax(logits))
    logprobs = log_softmax(_truncated(logits / sampling.temperature, sampling.top_p, sampling.top_k))
    cumulative = np.cumsum(np.exp(logprobs))
    cumulative[np.flatnonzero(np.isfinite(logprobs))[-1] :] = 1.0  # rounding must not leave room for a truncated word
    return _Distribution(cumulative, logprobs)


def _truncated(logits: Vector, top_p: float, top_k: int) -> Vector:
    """Logits with -inf outside the `top_k` likeliest words, and of those outside the smallest set that
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


def load_table(directory: Path, words: int) -> dict[str, Vector]:
    """The deltas of an adapter directory: context key -> [W]. StoreError when the file is missing or not such
    a table."""
    path = directory / TABLE_FILE
    try:
        table = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path}: not a readable table: {error}; make the update again") from error
    for key, delta in table.items():
        if delta.shape != (words,) or delta.dtype != np.float64:
            raise StoreError(
                f"{path}: {key}: {delta.dtype}{list(delta.shape)}, wanted float64[{words}]; "
                f"the table is of a world with other words"
            )
    return table


def save_table(directory: Path, table: Mapping[str, Vector]) -> None:
    """Write deltas as an adapter directory. Equal tables give equal bytes: names and layout are in canonical
    order."""
    directory.mkdir(parents=True, exist_ok=True)
    ordered = {key: np.ascontiguousarray(table[key], dtype=np.float64) for key in sorted(table)}
    (directory / TABLE_FILE).write_bytes(save(ordered))
