"""The codec of scripted worlds: words to token ids and back. Imports no numpy, so that an identity needs none."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import ConfigError, EngineError
from stages.models.protocol import ChatMessage

VERSION = 1
"""Raised by hand when a world has other words, ids or logits."""

END = 256
"""Ends a message and every turn of a chat; 0 to 255 are the bytes of UTF-8 text."""

_TURNS = ("system", "user", "assistant")


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
