"""Every column of every table says what it means."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from store.artifacts import schemas
from store.artifacts.schemas import TABLES

IDS = {"problem_id", "episode_id", "decision_id", "state_id", "context_id", "role"}
NAMES = IDS | {"run", "variant", "stage"}
"""Columns whose name says it all."""


def test_a_column_has_a_comment_on_its_line_or_the_one_before() -> None:
    lines = Path(schemas.__file__).read_text(encoding="utf-8").splitlines()
    bare = [
        name
        for before, line in pairwise(lines)
        if (found := re.match(r' +\("(\w+)", ', line))
        and (name := found[1]) not in NAMES
        and "#" not in line
        and not before.lstrip().startswith("#")
    ]
    assert bare == []


def test_the_columns_that_rows_are_joined_by_are_text_everywhere() -> None:
    for name, schema in TABLES.items():
        for field in schema:
            if field.name in IDS:
                assert str(field.type) == "string", (name, field.name)
