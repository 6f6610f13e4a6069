"""Problem sets by configuration, and what of one belongs in a key."""

from __future__ import annotations

from typing import Any, assert_never

from configs.problems import ArithmeticProblems, JsonlProblems, ProblemsConfig, ScriptedProblems
from stages.problem_sources import arithmetic, scripted
from stages.problem_sources.jsonl import jsonl_identity, jsonl_problems
from stages.problem_sources.protocol import Problem


def load_problems(config: ProblemsConfig) -> list[Problem]:
    """The set, in its own order. ConfigError naming file, line, field and cure when it cannot be read."""
    match config:
        case ArithmeticProblems():
            return arithmetic.arithmetic_problems(config)
        case JsonlProblems():
            return jsonl_problems(config)
        case ScriptedProblems():
            return scripted.scripted_problems(config)
        case _:
            assert_never(config)


def source_identity(config: ProblemsConfig) -> dict[str, Any]:
    """What the set is a function of: for a file its content and how it is read, not where it lies."""
    match config:
        case ArithmeticProblems():
            return {**config.model_dump(mode="json"), "generator": arithmetic.VERSION}
        case JsonlProblems():
            return jsonl_identity(config)
        case ScriptedProblems():
            return {**config.model_dump(mode="json"), "generator": scripted.VERSION}
        case _:
            assert_never(config)
