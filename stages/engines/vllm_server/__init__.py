"""The vllm_server engine: one or many vLLM servers, by OpenAI's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.engines import VllmServerEngineConfig
from stages.models.identity import base_digest, model_path
from stages.runtime.device import resolved_dtype

if TYPE_CHECKING:
    from stages.engines.vllm_server.servers import VllmServerEngine

VERSION = 1
"""Raised by hand when some request gets another message."""


def make(config: VllmServerEngineConfig) -> VllmServerEngine:
    """Return the engine. EngineError when the model that codec and trainer load is not there."""
    from stages.engines.vllm_server.servers import VllmServerEngine

    return VllmServerEngine(config, model_path(config))


def identity(config: VllmServerEngineConfig) -> dict[str, Any]:
    """Return what its messages depend on: not where servers are, nor how many, for any server of the model will do."""
    return {
        "model": base_digest(config),
        "dtype": resolved_dtype(config.dtype, config.device),
        "adapters": "beside the weights",
    }
