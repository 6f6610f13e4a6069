"""A learner's identity, without torch: what an update depends on besides its rows and the policy."""

from __future__ import annotations

from typing import Any

from configs.engines import ModelEngineConfig, ScriptedEngineConfig
from configs.errors import ConfigError
from configs.schema import Config
from stages.models.identity import base_digest
from stages.runtime.device import Dtype, gpu_count, resolved_device, resolved_dtype


def learner_identity(config: Config) -> dict[str, Any]:
    """Part of the update stage's key: the same for every engine that samples from the same model."""
    engine = config.engine
    if isinstance(engine, ScriptedEngineConfig):
        return {"kind": "tabular", "model": base_digest(engine)}
    return {
        "kind": "full" if config.trains_fully else "lora",
        "model": base_digest(engine),
        "dtype": training_dtype(config, engine),
        "device": resolved_device(engine.device),
        "threads": engine.threads,
    }


def check_processes(config: Config) -> None:
    """ConfigError when the update wants more processes than there are GPUs to train on."""
    engine, wanted = config.engine, config.update.processes
    if isinstance(engine, ScriptedEngineConfig) or resolved_device(engine.device) == "cpu":
        return
    there = gpu_count()
    if there is not None and there < wanted > 1:
        raise ConfigError(
            f"update.processes: {wanted}, but this machine has {there} GPUs and each process wants its own; lower it"
        )


def training_dtype(config: Config, engine: ModelEngineConfig) -> Dtype:
    """Of the base while training: update.dtype, or the engine's."""
    asked = config.update.dtype
    return resolved_dtype(engine.dtype if asked == "auto" else asked, engine.device)


def coarser_dtype(config: Config) -> Dtype:
    """The coarser arithmetic of engine and trainer: what their log-probs can be expected to agree to."""
    engine = config.engine
    if isinstance(engine, ScriptedEngineConfig):
        return "float32"
    both = {resolved_dtype(engine.dtype, engine.device), training_dtype(config, engine)}
    return "bfloat16" if "bfloat16" in both else "float32"
