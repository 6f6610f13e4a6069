"""Engines by configuration: which module each is, and what of it belongs in the keys of what it samples.

An engine is one module, or one package, named after its kind. It is imported when it is asked for, and imports the
libraries it samples with when an engine is made: keys are computed without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from configs.engines import (
    EngineConfig,
    ScriptedEngineConfig,
    TransformersEngineConfig,
    VllmEngineConfig,
    VllmServerEngineConfig,
)
from configs.section import Section
from stages.engines.protocol import Engine


class EngineModule(Protocol):
    """Define what the module of an engine holds. Importing it is cheap: keys are computed from it."""

    VERSION: int
    """Raised by hand when some request gets another message."""

    def make(self, config: Any, /) -> Engine:
        """Return the engine, model loaded. EngineError when that cannot be."""
        ...

    def identity(self, config: Any, /) -> dict[str, Any]:
        """Return what a message depends on besides its prompt, its seed, the adapters and VERSION."""
        ...


ENGINES: Mapping[type[Section], str] = {
    ScriptedEngineConfig: "stages.engines.scripted",
    TransformersEngineConfig: "stages.engines.transformers",
    VllmEngineConfig: "stages.engines.vllm",
    VllmServerEngineConfig: "stages.engines.vllm_server",
}
"""Every engine: the section that configures it, and its module."""


def engine_module(config: EngineConfig) -> EngineModule:
    """Return the module of the configured engine."""
    return cast(EngineModule, import_module(ENGINES[type(config)]))


def make_engine(config: EngineConfig) -> Engine:
    """Return the configured engine, model loaded. EngineError when that cannot be."""
    return engine_module(config).make(config)


def engine_identity(config: EngineConfig) -> dict[str, Any]:
    """Return what a message depends on besides its prompt, its seed and the adapters: part of every sampling stage's key."""
    module = engine_module(config)
    return {"kind": config.kind, **module.identity(config), "version": module.VERSION}
