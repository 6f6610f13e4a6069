"""Problem sources by configuration, and what of a set belongs in the keys of what is asked about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from configs.problems import ArithmeticProblems, JsonlProblems, ProblemsConfig, ScriptedProblems
from configs.section import Section
from stages.problem_sources import arithmetic, jsonl, scripted
from stages.problem_sources.protocol import Problem


class SourceModule(Protocol):
    """Define what the module of a problem source holds."""

    VERSION: int
    """Raised by hand when the same identity gives other problems."""

    def problems(self, config: Any, /) -> list[Problem]:
        """Return the set, in its own order. ConfigError when it cannot be read or made."""
        ...

    def identity(self, config: Any, /) -> dict[str, Any]:
        """Return what the set is a function of. ConfigError when it cannot be read, MissingFileError when it is gone."""
        ...


SOURCES: Mapping[type[Section], SourceModule] = {
    ArithmeticProblems: arithmetic,
    JsonlProblems: jsonl,
    ScriptedProblems: scripted,
}
"""Every problem source: the section that configures it, and its module."""


def load_problems(config: ProblemsConfig) -> list[Problem]:
    """Return the set, in its own order. ConfigError naming file, line, field and cure when it cannot be read."""
    return SOURCES[type(config)].problems(config)


def source_identity(config: ProblemsConfig) -> dict[str, Any]:
    """Return what the set is a function of: for a file its content and how it is read, not where it lies."""
    source = SOURCES[type(config)]
    return {**source.identity(config), "version": source.VERSION}
