"""Choosing an engine by configuration, and its identity without loading it.

Engines, and with them torch, are imported only when one is made: keys are computed without.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.environment import cache_root
from configs.errors import EngineError
from configs.schema import (
    EngineConfig,
    ModelEngineConfig,
    ScriptedEngineConfig,
    VllmEngineConfig,
    VllmServerEngineConfig,
)
from stages.engines.model_files import model_digest, model_directory
from stages.engines.protocol import Codec, Engine
from store.identity import digest
from store.policies import Adapter


def make_engine(config: EngineConfig) -> Engine:
    """The engine that a configuration asks for, model loaded."""
    if isinstance(config, ScriptedEngineConfig):
        from stages.engines.scripted import ScriptedEngine

        return ScriptedEngine(config)
    if isinstance(config, VllmEngineConfig):
        from stages.engines.vllm import VllmEngine

        return VllmEngine(config, resolved_model(config))
    if isinstance(config, VllmServerEngineConfig):
        from stages.engines.vllm_server import VllmServerEngine

        return VllmServerEngine(config, resolved_model(config))
    from stages.engines.transformers import TransformersEngine

    return TransformersEngine(
        resolved_model(config), config.dtype, config.threads, config.max_batch_tokens, device=config.device
    )


def write_merged_model(config: ModelEngineConfig, adapter: Adapter, target: Path) -> None:
    """Write a policy as a plain model directory."""
    from stages.engines.plain_model import write_plain_model

    write_plain_model(resolved_model(config), adapter, target)


def one_by_one(config: EngineConfig, attempts: int) -> list[tuple[str, EngineConfig]]:
    """The engine's parts that can fail alone, by name: each server, asked so many times, or the engine itself."""
    if isinstance(config, VllmServerEngineConfig):
        alone = [(url, config.model_copy(update={"urls": (url,), "attempts": attempts})) for url in config.urls]
        return [(f"server {url}", one) for url, one in alone]
    return [(f"engine {config.kind}", config)]


def check_adapters_allowed(engine: Engine) -> None:
    """EngineError when an engine cannot take the adapters of a policy that was trained."""
    from stages.engines.vllm_server import VllmServerEngine

    if isinstance(engine, VllmServerEngine):
        engine.check_adapters_allowed()


def make_codec(config: EngineConfig) -> Codec:
    """The codec alone: prompts can be rendered without weights."""
    if isinstance(config, ScriptedEngineConfig):
        from stages.engines.scripted import ScriptedCodec

        return ScriptedCodec(config.words)
    from stages.engines.chat_codec import ChatCodec

    return ChatCodec(resolved_model(config))


@lru_cache
def engine_identity(config: EngineConfig) -> dict[str, Any]:
    """What a message depends on besides its prompt, its seed and the adapters: part of every generating stage's key."""
    if isinstance(config, ScriptedEngineConfig):
        return config.model_dump(mode="json")
    from stages.engines.hardware import resolved_device, resolved_dtype

    model = {"model": base_digest(config), "dtype": resolved_dtype(config.dtype, config.device)}
    if isinstance(config, VllmServerEngineConfig):  # not where, nor how many: any server of the model will do
        return {"kind": "vllm_server", **model, "adapters": "beside the weights"}
    if isinstance(config, VllmEngineConfig):  # not threads or batches: vLLM promises no bytes across them anyway
        device = resolved_device(config.device)
        return {"kind": "vllm", **model, "device": device, "adapters": "beside the weights"}
    return {
        "kind": "transformers",
        **model,
        "device": resolved_device(config.device),
        "adapters": "merged",
        "max_batch_tokens": config.max_batch_tokens,
        "threads": config.threads,
    }


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
