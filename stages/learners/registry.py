"""Choosing a learner by configuration."""

from __future__ import annotations

from typing import Any

from configs.engines import ScriptedEngineConfig, TransformersEngineConfig
from configs.schema import Config
from stages.learners.protocol import Learner
from stages.models.identity import resolved_model


def make_learner(config: Config) -> Learner:
    """A fresh learner for the configured model: trainable weights are not shared between updates."""
    engine = config.engine
    if isinstance(engine, ScriptedEngineConfig):
        from stages.learners.tabular import TabularLearner

        return TabularLearner(engine)
    from stages.learners.identity import training_dtype

    if config.trains_fully:
        from stages.learners.full import FullLearner

        return FullLearner(
            resolved_model(engine),
            dtype=training_dtype(config, engine),
            threads=engine.threads,
            policies=config.policies,
            layout=config.update.layout,
            device=engine.device,
            checkpointing=config.update.gradient_checkpointing,
        )
    from stages.learners.lora import LoraLearner

    return LoraLearner(
        resolved_model(engine),
        dtype=training_dtype(config, engine),
        threads=engine.threads,
        policies=config.policies,
        layout=config.update.layout,
        device=engine.device,
        checkpointing=config.update.gradient_checkpointing,
    )


def learner_settings(config: Config) -> Any:
    """What a learner is made from: equal settings can share one."""
    update = config.update
    return config.engine, dict(config.policies), update.layout, update.dtype, update.gradient_checkpointing


def keeps_model(config: Config) -> bool:
    """Whether the learner stays loaded between updates. "auto": not on a GPU that vLLM wants to itself while sampling."""
    from stages.runtime.device import resolved_device

    engine, asked = config.engine, config.update.keep_model
    if asked == "auto":
        return (
            isinstance(engine, ScriptedEngineConfig | TransformersEngineConfig)
            or resolved_device(engine.device) == "cpu"
        )
    return asked
