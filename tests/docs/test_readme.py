"""The README's queries, as they stand there, on rounds and a variant that ran."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

import cli
from store.disk.layout import Layout
from store.queries.catalog_views import fetch, query
from store.runs.variants import Variant, record_variant
from tests.conftest import ROOT
from tests.support.rounds import PlayedRound, drive, drive_on, resolver_of

Played = Callable[[str, str], PlayedRound]
QUERIES = re.findall(r'^ *# (.+)\n +c3 sql "([^"]+)"', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def store(played: Played, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of a duo, and the README's variant of the third one's credit: here, of the first's."""
    store = tmp_path_factory.mktemp("readme") / "store"
    copytree(played("duo", "tree").store, store)
    drive(store, played("duo", "tree").config, round=2)
    branch = Variant("main", 1, "advantages", ("advantages.estimator=full_mean",))
    record_variant(Layout(store), "test", "no-loo", branch)
    drive_on(resolver_of(store, "test", 1, "no-loo"), until="advantages")
    return store


def test_every_query_of_the_readme_is_found_here() -> None:
    assert len(QUERIES) == (ROOT / "README.md").read_text(encoding="utf-8").count('c3 sql "') == 5


@pytest.mark.parametrize(("meaning", "text"), QUERIES, ids=[meaning[:30] for meaning, _ in QUERIES])
def test_a_query_of_the_readme_finds_rows(meaning: str, text: str, store: Path) -> None:
    rows = fetch(query(Layout(store), text))
    assert rows and all(None not in row for row in rows)


def test_what_roles_earned_is_told_variant_by_variant(store: Path) -> None:
    [(_, text)] = [found for found in QUERIES if "what each role earned" in found[0]]
    relation = query(Layout(store), text)
    rows = [dict(zip(relation.columns, row, strict=True)) for row in fetch(relation)]
    spreads = {(row["variant"], row["round"], row["role"]): row["spread"] for row in rows}
    assert len(spreads) == len(rows) == 6  # two rounds of the main line and one of the variant, two roles each
    for role, shrunk in (("reasoner", 1 / 2), ("actor", 3 / 4)):  # full_mean is c3 shrunk by (n - 1) / n
        assert spreads["no-loo", 1, role] == pytest.approx(spreads["main", 1, role] * shrunk)


def test_the_messages_that_helped_most_are_ten_and_each_is_there_once(store: Path) -> None:
    [(_, text)] = [found for found in QUERIES if "helped most" in found[0]]
    relation = query(Layout(store), text)
    rows = [dict(zip(relation.columns, row, strict=True)) for row in fetch(relation)]
    assert len({(row["run"], row["round"], row["decision_id"]) for row in rows}) == len(rows) == 10
    best = "SELECT advantage FROM advantages WHERE variant = 'main' ORDER BY advantage DESC LIMIT 10"
    assert [row["advantage"] for row in rows] == [value for (value,) in fetch(query(Layout(store), best))]


def test_variants_are_joined_message_by_message(store: Path) -> None:
    [(_, text)] = [found for found in QUERIES if "variants" in found[0]]
    rows = fetch(query(Layout(store), text))
    # full_mean is the leave-one-out advantage shrunk by (n - 1) / n: groups of 2 and of 4
    assert {role for role, *_ in rows} == {"reasoner", "actor"}
    for role, _, ours, other in rows:
        assert other == pytest.approx(ours * {"reasoner": 1 / 2, "actor": 3 / 4}[role])


def test_the_example_of_the_module_runs(tmp_path: Path, prefect_server: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server}
    script = f"{block}\nprint(len(best), page['groups'][0]['role'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "10 actor\n"), done.stderr


COMMANDS = [
    " ".join(line.split("  #")[0].split())
    for line in (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    if line.startswith("    c3 ") and not line.startswith("    c3 sql")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_line_knows_every_command_and_option_of_the_readme(line: str) -> None:
    """Its own parser says so, which runs nothing."""
    words = shlex.split(line)[1:]
    command: Any = typer.main.get_command(cli.app)
    context = typer.Context(command)
    while isinstance(command, TyperGroup):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
        context = typer.Context(command, parent=context, ignore_unknown_options=False)
    command.make_parser(context).parse_args(words)
