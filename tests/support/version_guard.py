"""The guard of versions: whose source changed since somebody decided about it, and the record of those decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.steps import EVERYTHING, INTERVENTIONS, Step
from store.artifacts.writer import ArtifactWriter
from tests.support.row_sources import Owner, RowSources, read_tree

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "architecture" / "stage_sources.json"
STEPS: tuple[Step, ...] = (*EVERYTHING, *INTERVENTIONS)

EXCLUDED: Mapping[str, str] = {
    "store.disk.locks": "decides who may write, and never what",
    "stages.runtime.quiet": "keeps libraries from printing",
    "stages.runtime.parent_watch": "ends a process whose parent is gone",
}
"""Modules that stages use and that cannot affect a row, each with the reason. They return nothing to their callers."""

IN_THE_KEY: Mapping[str, str] = {
    "store/sql/estimators/*.sql": "the file's bytes are in the key of the advantages that it computes",
}
"""Source that needs no version, because the keys hold it as it is."""

QUESTIONS: Mapping[str, str] = {
    "store/sql/accuracy_change.sql": "summary of two evaluations",
    "store/sql/checks/*/*.sql": "must return no row; refuses rows, and makes none",
    "store/sql/checks/tables/*/*.sql": "must return no row; refuses rows, and makes none",
    "store/sql/compare/*.sql": "c3 compare",
    "store/sql/export/*.sql": "c3 export",
    "store/sql/lineage/*.sql": "must return no row; c3 verify",
    "store/sql/round_summary.sql": "summary of a round",
    "store/sql/signal_summary.sql": "summary of a round",
    "store/sql/views.sql": "what c3 sql sees",
    "store/sql/what_if/*.sql": "c3 what-if",
    "store/sql/why/*.sql": "c3 why",
}
"""Queries over stored rows: no stage runs them, and nothing stores what they return."""


def matches(path: str, patterns: Mapping[str, str]) -> list[str]:
    """Return the patterns that a path is named by; a star is one folder's or file's name, or a part of it."""
    return [one for one in patterns if Path(path).match(one) and path.count("/") == one.count("/")]


@cache
def sources() -> RowSources:
    """Return this repository's source."""
    text = read_tree(ROOT)
    in_the_key = {path for path in text if matches(path, IN_THE_KEY)}
    wiring: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for step in STEPS:
        wiring.setdefault(step.stage.make.__module__, []).append((step.name, step.inputs))
    return RowSources(text, frozenset(EXCLUDED) | in_the_key, frozenset({ArtifactWriter.__module__}), wiring)


@cache
def recorded() -> dict[str, Any]:
    """Return what was recorded last: every owner's version and source, and every file's digest."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def undecided(owner: Owner, record: Mapping[str, Any]) -> str | None:
    """Return what has to be decided about an owner; None when nothing has."""
    command = "`python tests/architecture/test_stage_versions.py`"
    before = record["owners"].get(owner.name)
    if before is None:
        return f"{owner.name} is new: run {command}"
    if owner.digest != before["source"]:
        changed = [path for path, digest in sorted(owner.files.items()) if record["files"].get(path) != digest]
        return (
            f"what the rows of {owner.name} depend on changed: {', '.join(changed) or 'a file left its imports'}. If rows "
            f"would now come out otherwise, raise its version (now {owner.version}, recorded {before['version']}), so that "
            f"stored ones are made again; if not, leave it. Either way run {command}"
        )
    return None if owner.version == before["version"] else f"the version of {owner.name} changed: run {command}"


def write_record() -> None:
    """Record the source as it is, and print which versions were kept although their source changed."""
    found = sources().owners
    files = {path: digest for owner in found.values() for path, digest in owner.files.items()}
    owners = {name: {"version": owner.version, "source": owner.digest} for name, owner in sorted(found.items())}
    before = recorded().get("owners", {}) if RECORD.exists() else {}
    for name, entry in owners.items():
        if name in before and entry["source"] != before[name]["source"]:
            kept = "kept" if entry["version"] == before[name]["version"] else f"raised from {before[name]['version']}"
            print(f"{name}: source changed, version {entry['version']} {kept}")
    text = json.dumps({"owners": owners, "files": dict(sorted(files.items()))}, indent=1)
    RECORD.write_text(f"{text}\n", encoding="utf-8")
