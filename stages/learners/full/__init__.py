"""The full learner: every weight of a Hugging Face causal model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.schema import Config
from stages.learners.identity import model_identity, training_dtype
from stages.models.identity import model_path
from stages.runtime.device import resolved_device

if TYPE_CHECKING:
    from stages.learners.full.learner import FullLearner

VERSION = 1
"""Raised by hand when some update gives other weights or figures."""


def make(config: Config) -> FullLearner:
    """Return a fresh learner, model loaded. UpdateError when the model cannot be packed."""
    import torch

    from stages.learners.full.learner import FullLearner
    from stages.models.loading import load_model

    torch.set_num_threads(config.engine.threads)
    model = load_model(model_path(config.engine), torch.float32, torch.device(resolved_device(config.engine.device)))
    return FullLearner(
        model,
        config.policies,
        config.update.layout,
        config.engine.threads,
        training_dtype(config),
        config.update.gradient_checkpointing,
    )


def identity(config: Config) -> dict[str, Any]:
    """Return what an update depends on besides its rows, its configuration and the policy."""
    return model_identity(config)
