"""What the pages name is there, and what is there is named: rooms, tables, stages, links, and the module's example."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from configs.schema import Config
from pipeline import steps
from store.disk.layout import Layout
from store.queries.catalog_views import open_catalog
from tests.conftest import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
FOLDERS = ("configs", "store", "stages", "pipeline")


def _section(page: str, heading: str) -> str:
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _rows(section: str) -> list[str]:
    """The first cell of each row of its table, without the heading."""
    cells = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")]
    return [cell.strip("`") for cell in cells[2:]]


def _drawn_rooms() -> set[str]:
    """The paths in the picture of the rooms."""
    found, folder = set(), ""
    for line in _section(ARCHITECTURE, "The rooms").splitlines():
        drawn = re.sub(r"^(\s*[|v](?=\s))*\s*", "", line + " ").split("   ")[0] if line.startswith("    ") else ""
        for name in re.findall(r"[\w*]+(?:\.py|/)(?:\*\.py)?", drawn):
            if name.rstrip("/") in FOLDERS:
                folder = name
            elif name == "stages/*.py":
                folder = "stages/"
                continue
            found.add(name if name in ("c3.py", "cli.py") or name == folder else folder + name)
    return found


def test_every_room_that_is_drawn_is_there_and_every_room_is_drawn() -> None:
    drawn = _drawn_rooms()
    assert {name for name in drawn if not (ROOT / name).exists()} == set()
    rooms = {f"{path.relative_to(ROOT)}/" for top in FOLDERS for path in (ROOT / top).iterdir() if path.is_dir()}
    rooms = {room for room in rooms if "__pycache__" not in room}
    assert rooms - drawn == set()


def _lists() -> list[steps.StepList]:
    return [found for found in vars(steps).values() if isinstance(found, steps.StepList)]


def test_every_step_is_on_the_page_of_the_architecture() -> None:
    way = _section(ARCHITECTURE, "The data's way")
    assert [name for found in _lists() for name in found.names if name not in way] == []


def test_every_stage_is_in_the_glossary_once() -> None:
    listed = _rows(_section(GLOSSARY, "Stages and steps"))
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted({name for found in _lists() for name in found.names} | files)


def test_every_table_is_in_the_glossary_once(tmp_path: Path) -> None:
    assert sorted(_rows(_section(GLOSSARY, "Tables"))) == sorted(_tables(tmp_path))


def test_every_table_is_in_the_readme(tmp_path: Path) -> None:
    named = _section((ROOT / "README.md").read_text(encoding="utf-8"), "Query the credit").partition("\n\n    #")[0]
    assert {name for name in _tables(tmp_path) if f"`{name}`" not in named} == set()


def _tables(folder: Path) -> set[str]:
    views = open_catalog(Layout(folder)).sql("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
    return {"rounds", *(name for (name,) in views if not name.endswith("_files"))}


def test_no_word_is_explained_twice() -> None:
    sections = ["A team and what it says", "Credit", "Policies and the update", "Runs and what is stored"]
    words = Counter(word for section in sections for word in _rows(_section(GLOSSARY, section)))
    assert words and [word for word, count in words.items() if count > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_what_a_page_links_to_is_there(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    """Paths in backticks that begin with one of the top folders."""
    named = re.findall(
        r"`((?:configs|store|stages|pipeline|tests|docs|bench)/[\w/.-]+)`", page.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_section_of_the_method_that_a_file_cites_is_there() -> None:
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (\d+)\. ", method, re.MULTILINE))
    files = [path for folder in (*FOLDERS, "tests") for path in (ROOT / folder).rglob("*.py")]
    cited = {
        cite
        for path in files
        for cite in re.findall(r"docs/method\.md, section (\d+)", path.read_text(encoding="utf-8"))
    }
    assert cited and cited <= sections


def _keys(section: type[BaseModel], before: str = "") -> set[str]:
    """Every key below a section, with dots; of a union, those of each member."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(before + name)
        for part in _sections(field.annotation):
            found |= _keys(part, f"{before}{name}.")
    return found


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_configuration_key_that_a_page_names_is_one(page: Path) -> None:
    keys = _keys(Config)
    tops = "|".join(name for name in Config.model_fields if name not in ("roles", "policies"))
    named = re.findall(rf"[`' ]((?:{tops})(?:\.[a-z_]+)+)(?=[ =`'])", page.read_text(encoding="utf-8"))
    assert [name for name in named if name not in keys and not name.endswith((".py", ".md", ".sql"))] == []
