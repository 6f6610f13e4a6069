"""The catalog: which runs, rounds and variants there are, and which artifacts each refers to.

Small JSON files, written by the program: `run.json` says which configuration holds from which round on, and one file
per round and variant says which key each step of it has. Artifacts know nothing of either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import StoreError
from store.files import write_json, writing
from store.layout import MAIN, Layout

RUN_RECORD = "run.json"


@dataclass(frozen=True, slots=True)
class Reference:
    """One step of one round pointing at the artifact that holds its result."""

    run: str
    round: int
    variant: str
    step: str
    stage: str
    key: str


def runs(layout: Layout) -> list[str]:
    """Names of the runs in the store."""
    return sorted(path.parent.name for path in layout.runs.glob(f"*/{RUN_RECORD}"))


def recorded_config(layout: Layout, run: str, round: int) -> dict[str, Any] | None:
    """The configuration that holds for a round: the latest recorded at or before it. None: no such run."""
    record = read_record(layout.run(run) / RUN_RECORD)
    if record is None:
        return None
    holding = [entry for entry in record["configs"] if entry["from_round"] <= round] or record["configs"][:1]
    config: dict[str, Any] = holding[-1]["config"]
    return config


def record_config(layout: Layout, run: str, round: int, config: Mapping[str, Any]) -> bool:
    """Let a configuration hold from this round on. False when it already did."""
    if recorded_config(layout, run, round) == config:
        return False
    path = layout.run(run) / RUN_RECORD
    record = read_record(path) or {"run": run, "configs": []}
    first = round if record["configs"] else 1
    kept = [entry for entry in record["configs"] if entry["from_round"] != first]
    entries = [*kept, {"from_round": first, "config": dict(config)}]
    record["configs"] = sorted(entries, key=lambda entry: entry["from_round"])
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    return True


def round_steps(layout: Layout, run: str, round: int, variant: str = MAIN) -> dict[str, dict[str, str]]:
    """Step name -> {stage, key, digest} of one round; empty when it has not begun."""
    record = read_record(layout.round(run, variant, round))
    return dict(record["steps"]) if record else {}


def recorded_redraw(layout: Layout, run: str, round: int, variant: str) -> int:
    """Which set of draws a round was last asked for; 0 where nothing was said."""
    record = read_record(layout.round(run, variant, round))
    return int(record.get("redraw", 0)) if record else 0


def record_redraw(layout: Layout, run: str, round: int, variant: str, redraw: int) -> None:
    """Ask a round for another set of draws from now on."""
    if recorded_redraw(layout, run, round, variant) != redraw:
        _write_round(layout, run, round, variant, redraw=redraw)


def recorded_failures(layout: Layout, run: str, round: int, variant: str) -> dict[str, str]:
    """Step -> why its last attempt failed."""
    record = read_record(layout.round(run, variant, round))
    return dict(record.get("failures", {})) if record else {}


def record_failure(layout: Layout, run: str, round: int, variant: str, step: str, reason: str | None) -> None:
    """Remember why a step failed; None: it no longer does."""
    failures = recorded_failures(layout, run, round, variant)
    if failures.get(step) == reason:
        return
    failures.pop(step, None)
    if reason is not None:
        failures[step] = reason
    _write_round(layout, run, round, variant, failures=failures)


def record_step(layout: Layout, run: str, round: int, variant: str, step: str, entry: Mapping[str, str]) -> None:
    """Point a round's step at an artifact."""
    steps = round_steps(layout, run, round, variant)
    if steps.get(step) != dict(entry):
        _write_round(layout, run, round, variant, steps={**steps, step: dict(entry)})


def _write_round(layout: Layout, run: str, round: int, variant: str, **changes: Any) -> None:
    path = layout.round(run, variant, round)
    record = read_record(path) or {"run": run, "round": round, "variant": variant, "steps": {}, "redraw": 0}
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**record, **changes})


def rounds(layout: Layout, run: str, variant: str = MAIN) -> list[int]:
    """Rounds of a run that have begun."""
    folder = layout.round(run, variant, 1).parent
    return sorted(int(path.stem.removeprefix("round-")) for path in folder.glob("round-*.json"))


def variants(layout: Layout, run: str) -> list[str]:
    """Variants of a run, the main line first."""
    found = {
        path.parent.name
        for pattern in ("round-*.json", "variant.json")
        for path in layout.run(run).glob(f"*/{pattern}")
    }
    return sorted(found, key=lambda name: (name != MAIN, name))


def references(layout: Layout) -> Iterator[Reference]:
    """Every step of every round of every variant of every run."""
    for run in runs(layout):
        for variant in variants(layout, run):
            for round in rounds(layout, run, variant):
                for step, entry in sorted(round_steps(layout, run, round, variant).items()):
                    yield Reference(run, round, variant, step, entry["stage"], entry["key"])


def read_record(path: Path) -> dict[str, Any] | None:
    """A record written by the program, or None when there is none. StoreError when it is damaged."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path}: damaged ({error}); put back a copy, or delete it: the artifacts it named are kept "
            f"and found again by the same configuration"
        ) from error
    return record
