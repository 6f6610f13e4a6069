"""Choosing an engine by configuration, and its identity without loading it.

Engines, and with them torch, are imported only when one is made: keys are computed without.
"""

from __future__ import annotations

from pathlib import Path

from configs.engines import (
    EngineConfig,
    ModelEngineConfig,
    ScriptedEngineConfig,
    VllmEngineConfig,
    VllmServerEngineConfig,
)
from stages.engines.protocol import Engine
from stages.models.identity import resolved_model
from stages.models.protocol import Codec
from store.artifacts.policy_version import Adapter


def make_engine(config: EngineConfig) -> Engine:
    """The engine that a configuration asks for, model loaded."""
    if isinstance(config, ScriptedEngineConfig):
        from stages.engines.scripted import ScriptedEngine

        return ScriptedEngine(config)
    if isinstance(config, VllmEngineConfig):
        from stages.engines.vllm.in_process import VllmEngine

        return VllmEngine(config, resolved_model(config))
    if isinstance(config, VllmServerEngineConfig):
        from stages.engines.vllm.servers import VllmServerEngine

        return VllmServerEngine(config, resolved_model(config))
    from stages.engines.transformers.engine import TransformersEngine

    return TransformersEngine(
        resolved_model(config), config.dtype, config.threads, config.max_batch_tokens, device=config.device
    )


def write_merged_model(config: ModelEngineConfig, adapter: Adapter, target: Path) -> None:
    """Write a policy as a plain model directory."""
    from stages.models.export import write_plain_model

    write_plain_model(resolved_model(config), adapter, target)


def one_by_one(config: EngineConfig, attempts: int) -> list[tuple[str, EngineConfig]]:
    """The engine's parts that can fail alone, by name: each server, asked so many times, or the engine itself."""
    if isinstance(config, VllmServerEngineConfig):
        alone = [(url, config.model_copy(update={"urls": (url,), "max_attempts": attempts})) for url in config.urls]
        return [(f"server {url}", one) for url, one in alone]
    return [(f"engine {config.kind}", config)]


def check_adapters_allowed(engine: Engine) -> None:
    """EngineError when an engine cannot take the adapters of a policy that was trained."""
    from stages.engines.vllm.servers import VllmServerEngine

    if isinstance(engine, VllmServerEngine):
        engine.check_adapters_allowed()


def make_codec(config: EngineConfig) -> Codec:
    """The codec alone: prompts can be rendered without weights."""
    if isinstance(config, ScriptedEngineConfig):
        from stages.models.scripted_world import ScriptedCodec

        return ScriptedCodec(config.words)
    from stages.models.chat_codec import ChatCodec

    return ChatCodec(resolved_model(config))
