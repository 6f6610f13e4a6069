"""Scripted worlds: words, and logits that are a function of the context, so that values can be enumerated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from configs.engines import ScriptedEngineConfig
from configs.errors import ConfigError, EngineError, StoreError
from stages.models.protocol import ChatMessage
from store.disk.hashing import digest
from store.disk.ids import seed_from

VERSION = 1
"""Raised by hand when a world has other words, ids or logits."""

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
        """Return each turn as [turn id, bytes of its content, end], then the assistant's turn id."""
        ids: list[int] = []
        for message in chat:
            # surrogatepass: text that is no valid Unicode still has one spelling
            ids += [self._turn(message.role), *message.content.encode("utf-8", "surrogatepass"), END]
        return [*ids, self._turn("assistant")]

    def encode_message(self, text: str) -> list[int]:
        """Return a word and the end; of an empty message the end alone. EngineError when the world does not know the word."""
        if not text:
            return [END]
        if text not in self.words:
            raise EngineError(
                f"scripted codec: '{text}' is no word of this world; its words are {', '.join(self.words)}"
            )
        return [self.word_id(text), END]

    def prompt_text(self, token_ids: Sequence[int]) -> str:
        """Return the context's text, its turns visible."""
        return self.decode(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text; a final end is dropped, other special ids and bytes that are no UTF-8 stay visible.

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
        """Return the token id of a word."""
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


def context_key(context_ids: Sequence[int]) -> str:
    """Return the name of a context in a table: the hash of its token ids."""
    return digest([int(token) for token in context_ids])


def world_logits(config: ScriptedEngineConfig, key: str) -> Vector:
    """Return the untrained policy's logits [W] in one context: standard normals times `spread`.

    From the hash by the inverse normal CDF, because no library promises its random stream across releases.
    """
    draws = (seed_from("logit", config.world_seed, key, word) >> 11 for word in range(len(config.words)))
    normals = [_NORMAL.inv_cdf((draw + 0.5) / 2**52) for draw in draws]  # 52 bits: never rounded to 0 or 1
    return config.spread * np.array(normals, dtype=np.float64)


def log_softmax(logits: Vector) -> Vector:
    """Return logits - log sum exp(logits), [W]."""
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), dtype=np.float64)


def load_table(directory: Path, words: int) -> dict[str, Vector]:
    """Return the deltas of an adapter directory: context key -> [W]. StoreError when the file is missing or not such
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
