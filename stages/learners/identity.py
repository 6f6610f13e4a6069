"""A learner's identity, without torch: what an update depends on besides its rows and the policy."""

from __future__ import annotations

from typing import Any

from configs.schema import EngineConfig, ScriptedEngineConfig
from stages.engines.make import base_digest


def learner_identity(config: EngineConfig) -> dict[str, Any]:
    """Part of the update stage's key: the same for every engine that samples from the same model."""
    if isinstance(config, ScriptedEngineConfig):
        return {"kind": "tabular", "model": base_digest(config)}
    from stages.engines.hardware import resolved_device, resolved_dtype

    return {
        "kind": "lora",
        "model": base_digest(config),
        "dtype": resolved_dtype(config.dtype, config.device),
        "device": resolved_device(config.device),
        "threads": config.threads,
    }
