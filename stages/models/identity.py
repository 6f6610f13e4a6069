"""A model's identity without loading it: digests of its weights and of its codec; and the codec itself."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from configs.engines import EngineConfig, ModelEngineConfig, ScriptedEngineConfig
from configs.environment import cache_root
from configs.errors import EngineError
from stages.models.files import model_digest, model_directory
from store.disk.hashing import digest

if TYPE_CHECKING:
    from stages.models.protocol import Codec


def base_digest(config: EngineConfig) -> str:
    """Return the digest of the untrained weights: for a model its files, for a world its definition."""
    if config.is_world:
        from stages.models import scripted_codec

        return digest({**config.model_dump(mode="json"), "version": scripted_codec.VERSION})
    return _files_digest(model_path(config))


def codec_identity(config: EngineConfig) -> str:
    """Return the digest of what turns chats into token ids: the tokenizer's files or words, and the codec's version."""
    if config.is_world:
        from stages.models import scripted_codec

        words = cast(ScriptedEngineConfig, config).words
        return digest({"words": list(words), "version": scripted_codec.VERSION})
    from stages.models import chat_codec

    return digest({"tokenizer": _tokenizer_digest(model_path(config)), "version": chat_codec.VERSION})


def make_codec(config: EngineConfig) -> Codec:
    """Return the codec alone: prompts can be rendered without weights. EngineError when there is no such model."""
    if config.is_world:
        from stages.models.scripted_codec import ScriptedCodec

        return ScriptedCodec(cast(ScriptedEngineConfig, config).words)
    from stages.models.chat_codec import ChatCodec

    return ChatCodec(model_path(config))


@lru_cache
def model_path(config: EngineConfig) -> Path:
    """Return the local directory of a configured model. EngineError when it is none."""
    section = cast(ModelEngineConfig, config)
    try:
        return model_directory(section.model, section.revision, cache_root())
    except OSError as error:
        raise EngineError(f"engine.model: {section.model}: {error}") from error


@lru_cache
def _files_digest(model: Path) -> str:
    return model_digest(model, cache_root())


@lru_cache
def _tokenizer_digest(model: Path) -> str:
    return model_digest(model, cache_root(), weights=False)
