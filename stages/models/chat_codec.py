"""Chats to token ids and back, with a model's own tokenizer and chat template. Loads neither weights nor torch.

render:  template(chat with escaped contents, add_generation_prompt) -> text -> token ids, no special token added
escape:  "<|im_end|>" inside a content becomes "< |im_end|>", so no message can end its turn or forge another
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from configs.errors import EngineError
from stages.models.protocol import ChatMessage

VERSION = 1
"""Raised by hand when some chat gets other token ids, or some ids another text."""


class ChatCodec:
    """The codec of a model directory. Implements Codec.

    Raises EngineError when the directory has no fast tokenizer, no chat template or no end token.
    """

    def __init__(self, model_dir: Path) -> None:
        self._where = model_dir
        self._settings = _json(model_dir / "tokenizer_config.json")
        self._tokenizer = _tokenizer(model_dir)
        self._template = _template_environment().from_string(_template_text(model_dir, self._settings))
        self.end_token_ids = _end_token_ids(model_dir, self._settings, self._tokenizer)
        own = self._tokenizer.token_to_id(_tokens(self._settings).get("eos_token", ""))
        self._message_end = min(self.end_token_ids) if own is None else int(own)
        self._special = _special_pattern(self._tokenizer, self._settings)

    def encode(self, chat: Sequence[ChatMessage]) -> list[int]:
        """Return the chat with the generation prompt. EngineError when the template refuses it (a system turn, say)."""
        messages = [{"role": message.role, "content": self.escape(message.content)} for message in chat]
        try:
            text = self._template.render(messages=messages, add_generation_prompt=True, **_tokens(self._settings))
        except TemplateError as error:
            turns = ", ".join(message.role for message in chat)
            raise EngineError(
                f"chat template of {self._where}: refuses the turns {turns}: {error}; change the role's prompts"
            ) from error
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_message(self, text: str) -> list[int]:
        """Return a message that another system wrote, as token ids with the tokenizer's own end token behind."""
        ids = self._tokenizer.encode(self.escape(text), add_special_tokens=False).ids
        return [*ids, self._message_end]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the message's text: a final end token is dropped, any other special token stays visible as text."""
        ids = list(token_ids)
        if ids and ids[-1] in self.end_token_ids:
            ids.pop()
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def prompt_text(self, token_ids: Sequence[int]) -> str:
        """Return the context's text, without what the tokenizer puts in front by itself (a token that begins every text)."""
        ids, own = list(token_ids), self._tokenizer.encode("").ids
        rest = ids[len(own) :] if ids[: len(own)] == own else ids
        return str(self._tokenizer.decode(rest, skip_special_tokens=False))

    def escape(self, content: str) -> str:
        """Return `content` with every special token broken by a space after its first character.

        Lone surrogates, which no tokenizer takes, become question marks.
        """
        content = content.encode("utf-8", "replace").decode("utf-8")
        while True:
            escaped = self._special.sub(_broken, content)
            if escaped == content:
                return content
            content = escaped


def _broken(match: re.Match[str]) -> str:
    token = match.group()
    return f"{token[0]} {token[1:]}" if len(token) > 1 else f"\\u{ord(token):04x}"


def _tokenizer(model_dir: Path) -> Tokenizer:
    path = model_dir / "tokenizer.json"
    if path.exists():
        return Tokenizer.from_file(str(path))
    from transformers import AutoTokenizer  # converts the older formats

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{model_dir}: no tokenizer can be loaded: {error}; add tokenizer.json") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise EngineError(f"{model_dir}: {type(tokenizer).__name__} has no fast form; add tokenizer.json")
    return backend


def _template_text(model_dir: Path, settings: dict[str, Any]) -> str:
    path = model_dir / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not template:
        raise EngineError(f"{model_dir}: no chat template; use an instruction-tuned model, or add chat_template.jinja")
    return str(template)


def _template_environment() -> ImmutableSandboxedEnvironment:
    """Return jinja as transformers sets it up for chat templates, so that both render the same text."""

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    # a template that writes today's date would make other prompts tomorrow: its clock stands still
    environment.globals["strftime_now"] = lambda form: datetime(2024, 7, 26).strftime(form)
    return environment


def _end_token_ids(model_dir: Path, settings: dict[str, Any], tokenizer: Tokenizer) -> frozenset[int]:
    """Return what ends a message: the generation config's end tokens (else the model config's) and the tokenizer's own."""
    for name in ("generation_config.json", "config.json"):
        found = _json(model_dir / name).get("eos_token_id") if (model_dir / name).exists() else None
        if found is not None:
            break
    ids = {int(token) for token in (found if isinstance(found, list) else [found]) if token is not None}
    own = tokenizer.token_to_id(_tokens(settings).get("eos_token", ""))
    ids |= set() if own is None else {int(own)}
    if not ids:
        raise EngineError(f"{model_dir}: no end token; set eos_token_id in generation_config.json")
    return frozenset(ids)


def _special_pattern(tokenizer: Tokenizer, settings: dict[str, Any]) -> re.Pattern[str]:
    """Return matches every special token, the longest first. Other added tokens (runs of spaces, say) are ordinary text."""
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    words = {word for word in (added | set(_tokens(settings).values())) if word.strip()}
    return re.compile("|".join(re.escape(word) for word in sorted(words, key=lambda w: (-len(w), w))) or r"(?!)")


def _tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Return the tokenizer's named tokens (bos_token, eos_token, ...) as text: templates refer to them."""
    named = {}
    for key, value in settings.items():
        if key.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str) and text:
                named[key] = text
    return named


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path}: not readable as JSON: {error}; give a complete model directory") from error
    return dict(loaded)
