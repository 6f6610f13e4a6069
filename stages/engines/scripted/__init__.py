"""The scripted engine: worlds of a few words, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.engines import ScriptedEngineConfig
from stages.models.identity import base_digest

if TYPE_CHECKING:
    from stages.engines.scripted.engine import ScriptedEngine

VERSION = 1
"""Raised by hand when some request gets another message."""


def make(config: ScriptedEngineConfig) -> ScriptedEngine:
    """Return the engine of a world."""
    from stages.engines.scripted.engine import ScriptedEngine

    return ScriptedEngine(config)


def identity(config: ScriptedEngineConfig) -> dict[str, Any]:
    """Return what its messages depend on: the world's definition."""
    return {**config.model_dump(mode="json"), "model": base_digest(config)}
