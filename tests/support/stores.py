"""What tests read of a store: rows of a query, files without their times, and variants of a driven round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.commands.session import RoundOptions, configure_session
from pipeline.rounds.resolve import StepResolver
from store.disk.layout import Layout
from store.queries.catalog_views import query
from tests.support.rounds import PlayedRound

NO_LOO = ["advantages.estimator=full_mean"]


def query_rows(store: Path, text: str) -> list[dict[str, Any]]:
    relation = query(Layout(store), text)
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def stored_files(store: Path, *folders: str) -> dict[str, bytes]:
    """Every part's files by their path, and the manifests without their times."""
    found = {}
    for path in sorted(path for folder in folders for path in (store / folder).rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name in ("manifest.json", "part.json"):
            content = json.dumps(_without_times(json.loads(content)), sort_keys=True).encode()
        found[path.relative_to(store).as_posix()] = content
    return found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_times(item)
            for name, item in value.items()
            if name not in ("seconds", "created_at", "checksum")
        }
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def variant_of(
    round: PlayedRound, name: str, overrides: list[str], stage: str | None = None, number: int = 1
) -> StepResolver:
    options = RoundOptions(round.store, round.resolver.round.ref.run, number, name, overrides=overrides)
    return configure_session(options, stage=stage).resolver
