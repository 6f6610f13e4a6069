"""The transformers engine: any causal model that transformers can load, on CPU or one GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.engines import TransformersEngineConfig
from stages.models.identity import base_digest, model_path
from stages.runtime.device import resolved_device, resolved_dtype

if TYPE_CHECKING:
    from stages.engines.transformers.engine import TransformersEngine

VERSION = 1
"""Raised by hand when some request gets another message."""


def make(config: TransformersEngineConfig) -> TransformersEngine:
    """Return the engine, model loaded. EngineError when the model cannot be loaded, or a GPU is asked for and missing."""
    from stages.engines.transformers.engine import load_engine

    return load_engine(config, model_path(config))


def identity(config: TransformersEngineConfig) -> dict[str, Any]:
    """Return what its messages depend on: batches and threads are part of it, because a sum's order is."""
    return {
        "model": base_digest(config),
        "dtype": resolved_dtype(config.dtype, config.device),
        "device": resolved_device(config.device),
        "adapters": "merged",
        "max_batch_tokens": config.max_batch_tokens,
        "threads": config.threads,
    }
