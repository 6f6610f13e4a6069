"""The tabular learner: softmax tables of a scripted world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from configs.engines import ScriptedEngineConfig
from configs.schema import Config
from stages.models.identity import base_digest

if TYPE_CHECKING:
    from stages.learners.tabular.learner import TabularLearner

VERSION = 1
"""Raised by hand when some update gives other weights or figures."""


def make(config: Config) -> TabularLearner:
    """Return the learner of a world."""
    from stages.learners.tabular.learner import TabularLearner

    return TabularLearner(cast(ScriptedEngineConfig, config.engine))


def identity(config: Config) -> dict[str, Any]:
    """Return what an update depends on besides its rows, its configuration and the policy: the world's definition."""
    return {"model": base_digest(config.engine)}
