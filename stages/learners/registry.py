"""Learners by configuration: which module each is, and what of it belongs in the keys of what it trains.

A learner is one package. It is imported when it is asked for, and imports torch when a learner is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from configs.schema import Config
from stages.learners.protocol import Learner
from stages.runtime.device import resolved_device


class LearnerModule(Protocol):
    """Define what the module of a learner holds. Importing it is cheap: keys are computed from it."""

    VERSION: int
    """Raised by hand when some update gives other weights or figures."""

    def make(self, config: Config, /) -> Learner:
        """Return a fresh learner, model loaded: trainable weights are not shared between updates."""
        ...

    def identity(self, config: Config, /) -> dict[str, Any]:
        """Return what an update depends on besides its rows, its configuration, the policy and VERSION."""
        ...


LEARNERS: Mapping[str, str] = {
    "tabular": "stages.learners.tabular",
    "lora": "stages.learners.lora",
    "full": "stages.learners.full",
}
"""Every learner, by kind, and its module."""


def learner_kind(config: Config) -> str:
    """Return which learner trains what the engine samples from."""
    if config.engine.is_world:
        return "tabular"
    return "full" if config.trains_fully else "lora"


def learner_module(config: Config) -> LearnerModule:
    """Return the module of the configured learner."""
    return cast(LearnerModule, import_module(LEARNERS[learner_kind(config)]))


def make_learner(config: Config) -> Learner:
    """Return a fresh learner for the configured model. EngineError or UpdateError when it cannot be made."""
    return learner_module(config).make(config)


def learner_identity(config: Config) -> dict[str, Any]:
    """Return what an update depends on besides its rows and the policy: part of the update stage's key."""
    module = learner_module(config)
    return {"kind": learner_kind(config), **module.identity(config), "version": module.VERSION}


def learner_settings(config: Config) -> Any:
    """Return what a learner is made from: equal settings can share one."""
    update = config.update
    return config.engine, dict(config.policies), update.layout, update.dtype, update.gradient_checkpointing


def keeps_model(config: Config) -> bool:
    """Return whether the learner stays loaded between updates. "auto": not on a GPU that the engine wants to itself."""
    asked = config.update.keep_model
    if asked == "auto":
        return config.engine.shares_arithmetic or resolved_device(config.engine.device) == "cpu"
    return asked
