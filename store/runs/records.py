"""The catalog: which runs, rounds and variants there are, and which artifacts each refers to.

Small JSON files, written by the program: `run.json` says which configuration holds from which round on, and one file
per round and variant says which key each step of it has. Artifacts know nothing of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import StoreError
from store.disk import records
from store.disk.atomic import writing
from store.disk.layout import MAIN, Layout
from store.disk.locks import short_lock

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


def run_folders(layout: Layout) -> list[str]:
    """Names of the runs, those that have lost their run.json among them."""
    patterns = (f"*/{RUN_RECORD}", "*/*/round-*.json", "*/*/variant.json")
    found = {path.relative_to(layout.runs).parts[0] for pattern in patterns for path in layout.runs.glob(pattern)}
    return sorted(found)


def recorded_config(layout: Layout, run: str, round: int) -> dict[str, Any] | None:
    """The configuration that holds for a round: the latest recorded at or before it. None: no such run."""
    record = read_record(layout.run(run) / RUN_RECORD)
    if record is None:
        return None
    exclusive_lock = [entry for entry in record["configs"] if entry["from_round"] <= round] or record["configs"][:1]
    config: dict[str, Any] = exclusive_lock[-1]["config"]
    return config


def record_config(layout: Layout, run: str, round: int, config: Mapping[str, Any]) -> bool:
    """Let a configuration hold from this round on. False when it already did."""
    if recorded_config(layout, run, round) == config:
        return False
    path = layout.run(run) / RUN_RECORD
    with _changing(layout, run, path):
        record = read_record(path) or {"run": run, "configs": []}
        first = round if record["configs"] else 1
        kept = [entry for entry in record["configs"] if entry["from_round"] != first]
        entries = [*kept, {"from_round": first, "config": dict(config)}]
        record["configs"] = sorted(entries, key=lambda entry: entry["from_round"])
        records.write_record(path, record)
    return True


def round_steps(layout: Layout, run: str, round: int, variant: str = MAIN) -> dict[str, dict[str, str]]:
    """Step name -> {stage, key, digest} of one round; empty when it has not begun."""
    record = read_record(layout.round(run, variant, round))
    return dict(record["steps"]) if record else {}


def recorded_redraw(layout: Layout, run: str, round: int, variant: str) -> int | None:
    """Which set of draws a round was last asked for; None where nothing was said."""
    record = read_record(layout.round(run, variant, round))
    return record.get("redraw") if record else None


def record_redraw(layout: Layout, run: str, round: int, variant: str, draw_set: int) -> None:
    """Ask a round for another set of draws from now on."""
    if recorded_redraw(layout, run, round, variant) != draw_set:
        with _changing_round(layout, run, round, variant) as record:
            record["redraw"] = draw_set


def recorded_extra_replays(layout: Layout, run: str, round: int, variant: str) -> int:
    """How many independent replays of each alternative a round's diagnosis was last asked for; 0 where nothing was said."""
    record = read_record(layout.round(run, variant, round))
    return int(record.get("independent_replay_count", 0)) if record else 0


def record_extra_replays(layout: Layout, run: str, round: int, variant: str, replays: int) -> None:
    """Ask a round's diagnosis for so many from now on."""
    if recorded_extra_replays(layout, run, round, variant) != replays:
        with _changing_round(layout, run, round, variant) as record:
            record["independent_replay_count"] = replays


def recorded_retries(layout: Layout, run: str, round: int, variant: str) -> dict[str, list[str]]:
    """Step -> the keys of the rewards whose missing ones were asked to be graded again, the first first."""
    record = read_record(layout.round(run, variant, round))
    return dict(record.get("retries", {})) if record else {}


def record_retry(layout: Layout, run: str, round: int, variant: str, step: str, keys: Sequence[str]) -> None:
    """Ask for the missing rewards of a step to be graded again: those of each key in turn."""
    with _changing_round(layout, run, round, variant) as record:
        record["retries"] = {**record.get("retries", {}), step: list(keys)}


def recorded_failures(layout: Layout, run: str, round: int, variant: str) -> dict[str, str]:
    """Step -> why its last attempt failed."""
    record = read_record(layout.round(run, variant, round))
    return dict(record.get("failures", {})) if record else {}


def record_failure(layout: Layout, run: str, round: int, variant: str, step: str, reason: str | None) -> None:
    """Remember why a step failed; None: it no longer does."""
    if recorded_failures(layout, run, round, variant).get(step) == reason:
        return
    with _changing_round(layout, run, round, variant) as record:
        failures = {name: why for name, why in record.get("failures", {}).items() if name != step}
        record["failures"] = failures if reason is None else {**failures, step: reason}


def record_step(layout: Layout, run: str, round: int, variant: str, step: str, entry: Mapping[str, str]) -> None:
    """Point a round's step at an artifact."""
    if round_steps(layout, run, round, variant).get(step) != dict(entry):
        with _changing_round(layout, run, round, variant) as record:
            record["steps"] = {**record["steps"], step: dict(entry)}


def recorded_summary(layout: Layout, run: str, round: int, variant: str) -> dict[str, Any] | None:
    """A round's figures as they were last told: of (the content they are of), figures and signal. None: never."""
    record = read_record(layout.round(run, variant, round))
    return record.get("summary") if record else None


def record_summary(layout: Layout, run: str, round: int, variant: str, summary: Mapping[str, Any]) -> None:
    """Remember a round's figures, so that telling them again needs no query."""
    with _changing_round(layout, run, round, variant) as record:
        record["summary"] = dict(summary)


def recorded_interventions(layout: Layout, run: str, round: int, variant: str) -> list[dict[str, Any]]:
    """What was asked of a round's states: asked (the question) and steps (step -> {stage, key, digest}), the first first."""
    record = read_record(layout.round(run, variant, round))
    return list(record.get("interventions", [])) if record else []


def record_intervention(
    layout: Layout,
    run: str,
    round: int,
    variant: str,
    asked: Mapping[str, Any],
    step: str,
    entry: Mapping[str, str],
) -> None:
    """Point a step of a question at an artifact. What is asked again is the same question."""
    interventions = recorded_interventions(layout, run, round, variant)
    before = next((intervention for intervention in interventions if intervention["asked"] == dict(asked)), None)
    if before is not None and before["steps"].get(step) == dict(entry):
        return
    with _changing_round(layout, run, round, variant) as record:
        others = [
            intervention for intervention in record.get("interventions", []) if intervention["asked"] != dict(asked)
        ]
        same: dict[str, Any] = next(
            (intervention for intervention in record.get("interventions", []) if intervention["asked"] == dict(asked)),
            {"steps": {}},
        )
        record["interventions"] = [*others, {"asked": dict(asked), "steps": {**same["steps"], step: dict(entry)}}]


@contextmanager
def _changing_round(layout: Layout, run: str, round: int, variant: str) -> Iterator[dict[str, Any]]:
    """A round's record as it is now, written back when the block ends well."""
    path = layout.round(run, variant, round)
    with _changing(layout, run, path):
        record = read_record(path) or {"run": run, "round": round, "variant": variant, "steps": {}}
        yield record
        records.write_record(path, record)


@contextmanager
def _changing(layout: Layout, run: str, path: Path) -> Iterator[None]:
    """One process at a time changes a run's records, so that none overwrites what another has just written."""
    with short_lock(layout, f"records-{run}", f"run '{run}'"), writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield


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
    """Every step of every round of every variant of every run, those that have lost their run.json among them."""
    for run in run_folders(layout):
        for variant in variants(layout, run):
            for round in rounds(layout, run, variant):
                yield from references_of(layout, run, round, variant)


def references_of(layout: Layout, run: str, round: int, variant: str) -> Iterator[Reference]:
    """Every step of one round, and of what was asked of its states."""
    for step, entry in sorted(round_steps(layout, run, round, variant).items()):
        yield Reference(run, round, variant, step, entry["stage"], entry["key"])
    for intervention in recorded_interventions(layout, run, round, variant):
        for step, entry in sorted(intervention["steps"].items()):
            yield Reference(run, round, variant, step, entry["stage"], entry["key"])


def read_record(path: Path) -> dict[str, Any] | None:
    """A record written by the program, or None when there is none. StoreError when it is corrupt."""
    try:
        return records.read_record(path)
    except StoreError as error:
        raise StoreError(
            f"{error}; put back a copy, or delete it: the artifacts it named are kept and found again by the same "
            f"configuration"
        ) from error
