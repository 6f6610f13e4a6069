"""What engines and learners share of a model: chats as token ids, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a chat prompt. `role` is the chat template's word (system, user, assistant), not a seat of the team."""

    role: Literal["system", "user", "assistant"]
    content: str


class Codec(Protocol):
    """Chats to token ids and back. Deterministic; needs no weights."""

    def encode(self, chat: Sequence[ChatMessage]) -> list[int]:
        """Render a chat with the generation prompt. Special tokens inside `content` are escaped, never parsed."""
        ...

    def encode_message(self, text: str) -> list[int]:
        """Return the token ids of a message that another system wrote, its end token included."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the message's text: a final end token is dropped, any other special token stays visible as text."""
        ...

    def prompt_text(self, token_ids: Sequence[int]) -> str:
        """Return a context as text that the model's tokenizer, called as it comes, turns into these ids again."""
        ...
