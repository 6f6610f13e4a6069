"""What an update depends on besides its rows and the policy, told without torch."""

from __future__ import annotations

from typing import Any

from configs.errors import ConfigError
from configs.schema import Config
from stages.models.identity import base_digest
from stages.runtime.device import Dtype, gpu_count, resolved_device, resolved_dtype


def model_identity(config: Config) -> dict[str, Any]:
    """Return what the learners of a language model share: the same for every engine that samples from that model."""
    return {
        "model": base_digest(config.engine),
        "dtype": training_dtype(config),
        "device": resolved_device(config.engine.device),
        "threads": config.engine.threads,
    }


def check_processes(config: Config) -> None:
    """Raise ConfigError when the update wants more processes than there are GPUs to train on."""
    wanted = config.update.processes
    if resolved_device(config.engine.device) == "cpu":
        return
    there = gpu_count()
    if there is not None and there < wanted > 1:
        raise ConfigError(
            f"update.processes: {wanted}, but this machine has {there} GPUs and each process wants its own; lower it"
        )


def training_dtype(config: Config) -> Dtype:
    """Return the dtype of the base while training: update.dtype, or the engine's."""
    asked = config.update.dtype
    return resolved_dtype(config.engine.dtype if asked == "auto" else asked, config.engine.device)


def coarser_dtype(config: Config) -> Dtype:
    """Return the coarser arithmetic of engine and trainer: what their log-probs can be expected to agree to."""
    if config.engine.is_world:
        return "float32"
    both = {resolved_dtype(config.engine.dtype, config.engine.device), training_dtype(config)}
    return "bfloat16" if "bfloat16" in both else "float32"
