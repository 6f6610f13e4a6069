"""The walk from `c3 run iteration` to the first generated token: docs/architecture.md writes it down, this keeps it true."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import cli
from stages.engines.scripted.engine import ScriptedEngine
from stages.engines.transformers import engine as transformers_engine
from tests.architecture.test_imports import _rank

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "architecture.md"
LONGEST = 25


def _project_functions(frame: FrameType | None) -> list[tuple[str, str]]:
    """File and function of every frame of ours on the stack, the first called first."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and ".venv" not in path.parts and path.parts[len(ROOT.parts)] != "tests":
            found.append((path.relative_to(ROOT).as_posix(), frame.f_code.co_qualname.replace(".<locals>", "")))
        frame = frame.f_back
    return found[::-1]


def walk_of(monkeypatch: pytest.MonkeyPatch, engine: Any, method: str, arguments: list[str]) -> list[tuple[str, str]]:
    """Run the command, and return the stack at the engine's first token."""
    stacks: list[list[tuple[str, str]]] = []
    plain: Callable[..., Any] = getattr(engine, method)

    def watched(*given: Any, **named: Any) -> Any:
        if not stacks:
            stacks.append(_project_functions(sys._getframe(1)))
        return plain(*given, **named)

    monkeypatch.setattr(engine, method, watched)
    monkeypatch.setattr(sys, "argv", ["c3", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.app()
    assert ended.value.code in (0, None)
    return stacks[0]


def _written_down() -> list[tuple[str, str]]:
    """The walk in docs/architecture.md: lines of the form "file  function" below its heading."""
    section = PAGE.read_text(encoding="utf-8").split("## A round, file by file")[1].split("\n## ")[0]
    return re.findall(r"^ {4}([\w/]+\.py) +([\w.<>]+)", section, re.MULTILINE)


def _is_one_way(walk: list[tuple[str, str]]) -> bool:
    ranks = [_rank(file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")) for file, _ in walk]
    known = [rank for rank in ranks if rank is not None]
    return known == sorted(known, reverse=True)


def test_the_walk_is_short_goes_one_way_and_is_the_one_that_is_written_down(
    store: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    command = [
        "run",
        "iteration",
        "--round",
        "1",
        "--config",
        "scripted-duo",
        "--until",
        "rollout",
        "--store",
        str(store),
    ]
    walk = walk_of(monkeypatch, ScriptedEngine, "_completion", command)
    assert len(walk) <= LONGEST, walk
    assert _is_one_way(walk), walk
    assert walk == _written_down()


@pytest.mark.slow
def test_the_walk_to_a_models_first_token_is_as_short(
    store: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    command = ["run", "iteration", "--round", "1", "--config", "arithmetic-duo", "--until", "rollout"]
    command += ["--set", "rounds.problems_per_round=1", "--store", str(store)]
    walk = walk_of(monkeypatch, transformers_engine, "draw", command)
    assert len(walk) <= LONGEST, walk
    assert _is_one_way(walk), walk
    shared = [step for step in _written_down() if not step[0].startswith("stages/engines/")]
    assert walk[: len(shared)] == shared
