"""Choosing a learner by configuration."""

from __future__ import annotations

from configs.schema import Config, ScriptedEngineConfig
from stages.engines.make import resolved_model
from stages.learners.protocol import Learner


def make_learner(config: Config) -> Learner:
    """A fresh learner for the configured model: trainable weights are not shared between updates."""
    engine = config.engine
    if isinstance(engine, ScriptedEngineConfig):
        from stages.learners.tabular import TabularLearner

        return TabularLearner(engine)
    from stages.learners.lora import LoraLearner

    return LoraLearner(
        resolved_model(engine),
        dtype=engine.dtype,
        threads=engine.threads,
        policies=config.policies,
        layout=config.update.layout,
        device=engine.device,
    )
