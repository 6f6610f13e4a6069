"""The vllm engine: vLLM in this process, for GPUs (and CPUs, with its CPU build)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.engines import VllmEngineConfig
from stages.models.identity import base_digest, model_path
from stages.runtime.device import resolved_device, resolved_dtype

if TYPE_CHECKING:
    from stages.engines.vllm.in_process import VllmEngine

VERSION = 1
"""Raised by hand when some request gets another message."""


def make(config: VllmEngineConfig) -> VllmEngine:
    """Return the engine, model loaded. EngineError when vLLM is not installed, or cannot load the model."""
    from stages.engines.vllm.in_process import VllmEngine

    return VllmEngine(config, model_path(config))


def identity(config: VllmEngineConfig) -> dict[str, Any]:
    """Return what its messages depend on: not threads or batches, for vLLM promises no bytes across them anyway."""
    return {
        "model": base_digest(config),
        "dtype": resolved_dtype(config.dtype, config.device),
        "device": resolved_device(config.device),
        "adapters": "beside the weights",
    }
