"""A model's identity without loading it: digests of its weights and of its codec."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from configs.engines import EngineConfig, ModelEngineConfig, ScriptedEngineConfig
from configs.environment import cache_root
from configs.errors import EngineError
from stages.models.files import model_digest, model_directory
from store.disk.hashing import digest


@lru_cache
def base_digest(config: EngineConfig) -> str:
    """Digest of the untrained weights: for a model its files, for a world its definition."""
    if isinstance(config, ScriptedEngineConfig):
        return digest(config.model_dump(mode="json"))
    return model_digest(resolved_model(config), cache_root())


@lru_cache
def codec_identity(config: EngineConfig) -> str:
    """Digest of what turns chats into token ids."""
    if isinstance(config, ScriptedEngineConfig):
        return digest({"words": list(config.words)})
    return model_digest(resolved_model(config), cache_root(), weights=False)


@lru_cache
def resolved_model(config: ModelEngineConfig) -> Path:
    """The local directory of a configured model. EngineError when it is none."""
    try:
        return model_directory(config.model, config.revision, cache_root())
    except OSError as error:
        raise EngineError(f"engine.model: {config.model}: {error}") from error
