"""An engine's identity without loading it: part of the key of every stage that samples."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from configs.engines import EngineConfig, ScriptedEngineConfig, VllmEngineConfig, VllmServerEngineConfig
from stages.models.identity import base_digest


@lru_cache
def engine_identity(config: EngineConfig) -> dict[str, Any]:
    """What a message depends on besides its prompt, its seed and the adapters: part of every generating stage's key."""
    if isinstance(config, ScriptedEngineConfig):
        return config.model_dump(mode="json")
    from stages.runtime.device import resolved_device, resolved_dtype

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
