"""The pages on how to add something, carried out block by block in a copy of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "how-to"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENDS_WITH = {
    "role": r"verifier\W+64\b",  # the new role has credit: 8 problems, 8 evaluations each
    "estimator": r"\bmedian\b",  # it is compared with the others
    "evaluator": r"said\W+\d+",  # it gave rewards
    "problem-source": r"counting\W+32\b",  # the set is there
    "engine": r"ant\W+\d+\W+\(1 row\)",  # nobody says anything else
    "stage": r"reasoner\W+\d+",  # its table has a row for the role
}
"""By page, what its last command prints, as a regular expression."""
LONGEST = 20


def _page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of everything that C3 is made of."""
    for name in ("configs", "pipeline", "stages", "store"):
        copytree(ROOT / name, tmp_path / name, ignore=ignore_patterns("__pycache__"))
    for name in ("c3.py", "cli.py"):
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def _write(repository: Path, block: str) -> None:
    """A new file, or lines for the end of one: the first line, a comment, says which."""
    first, _, text = block.partition("\n")
    path = re.fullmatch(r"(?:#|--) (add to )?(\S+)", first)
    assert path is not None, first
    target = repository / path[2]
    assert target.exists() == bool(path[1]), target
    with target.open("a", encoding="utf-8") as file:
        file.write(f"\n{text}" if path[1] else text)


def _change(repository: Path, block: str) -> None:
    """Lines that begin with a minus or a space are there, once; they become those with a plus or a space."""
    first, *lines = block.splitlines()
    target = repository / first.removeprefix("--- ")
    before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
    after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
    text = target.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{target}: {before}"
    target.write_text(text.replace(before, after), encoding="utf-8")


def _execute(repository: Path, block: str, server: str) -> str:
    """Each line is a `c3` command of the copy; what the last one prints."""
    said = ""
    environment = {**os.environ, "PREFECT_API_URL": server, "COLUMNS": "200", "PYTHONPATH": str(repository)}
    environment["PATH"] = os.pathsep.join([str(repository / "bin"), os.environ["PATH"]])
    command = repository / "bin" / "c3"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{repository / "cli.py"}" "$@"\n')
    command.chmod(0o755)
    for line in block.splitlines():
        done = subprocess.run(
            line, shell=True, cwd=repository, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said = done.stdout
    return said


@pytest.mark.parametrize("name", ENDS_WITH)
def test_a_page_does_what_it_says(name: str, repository: Path, prefect_server: str) -> None:
    said = ""
    for kind, block in BLOCK.findall(_page(name)):
        if kind == "sh":
            said = _execute(repository, block, prefect_server)
        elif kind == "diff":
            _change(repository, block)
        else:
            _write(repository, block)
    assert re.search(ENDS_WITH[name], said), said


def test_every_page_is_carried_out() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} - {"README"} == set(ENDS_WITH)


@pytest.mark.parametrize("name", ENDS_WITH)
def test_a_page_asks_for_at_most_twenty_lines_of_code(name: str) -> None:
    """What has to be typed into files: no commands, no lines that only say where, no prose."""
    written = [
        line
        for kind, block in BLOCK.findall(_page(name))
        if kind != "sh"
        for line in block.splitlines()[1:]
        if line.strip() and not (kind == "diff" and line[0] in " -")
    ]
    assert 0 < len(written) <= LONGEST
