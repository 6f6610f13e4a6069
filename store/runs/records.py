"""Records of runs and rounds: which configuration holds from which round on, and what each round refers to.

Small JSON files, written by the program: `run.json` of a run, and one file for each round of each variant. Artifacts
know nothing of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import StoreError
from store.disk import records
from store.disk.atomic import writing
from store.disk.layout import MAIN, Layout
from store.disk.locks import short_lock


@dataclass(frozen=True, slots=True)
class RoundRef:
    """Which round of which run, on which variant of it."""

    run: str
    round: int
    """From 1; 0 stands for the untrained team, which is only evaluated."""
    variant: str = MAIN


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The artifact that holds the result of one step."""

    stage: str
    key: str
    digest: str
    """The content digest it had when the step was recorded."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One step of one round pointing at the artifact that holds its result."""

    run: str
    round: int
    variant: str
    step: str
    stage: str
    key: str


@dataclass(slots=True)
class InterventionRecord:
    """One question about a round's states, and the artifacts that answer it, by step."""

    question: dict[str, Any]
    steps: dict[str, StepRecord] = field(default_factory=dict)


@dataclass(slots=True)
class RoundSummary:
    """A round's figures, kept so that the next command needs no query."""

    content: str
    """Digest of the rows and queries that the figures are of: with another digest they are out of date."""
    figures: dict[str, Any]
    """Row of store/sql/round_summary.sql."""
    signal: list[dict[str, Any]]
    """Rows of store/sql/signal_summary.sql."""


@dataclass(slots=True)
class RoundRecord:
    """What is recorded of one round; empty where it has not begun."""

    steps: dict[str, StepRecord] = field(default_factory=dict)
    """By the step's name."""
    draw_set: int | None = None
    """Which set of draws was requested; None where none was: the parent's, or the first (0)."""
    independent_replays: int = 0
    """Independent replays of each alternative that the round's diagnosis may spend."""
    retries: dict[str, list[str]] = field(default_factory=dict)
    """Step -> keys of the rewards whose missing ones are to be graded again, in the order of the requests."""
    failures: dict[str, str] = field(default_factory=dict)
    """Step -> why its last attempt failed."""
    summary: RoundSummary | None = None
    """None: the figures were not computed yet."""
    interventions: list[InterventionRecord] = field(default_factory=list)
    """In the order in which they were first asked."""

    @classmethod
    def load(cls, layout: Layout, ref: RoundRef) -> RoundRecord:
        """Return what is recorded of a round. StoreError when its file is corrupt."""
        found = load_record(_path(layout, ref))
        if found is None:
            return cls()
        summary = found["summary"]
        return cls(
            steps=_step_records(found["steps"]),
            draw_set=found["draw_set"],
            independent_replays=found["independent_replays"],
            retries=found["retries"],
            failures=found["failures"],
            summary=None if summary is None else RoundSummary(**summary),
            interventions=[
                InterventionRecord(entry["question"], _step_records(entry["steps"])) for entry in found["interventions"]
            ],
        )

    def find_intervention(self, question: Mapping[str, Any]) -> InterventionRecord | None:
        """Return what is recorded of a question, or None when it was never asked."""
        return next((entry for entry in self.interventions if entry.question == dict(question)), None)

    def add_intervention(self, question: Mapping[str, Any]) -> InterventionRecord:
        """Return the record of a question, a new one where it was never asked: to ask again adds nothing."""
        found = self.find_intervention(question)
        if found is None:
            found = InterventionRecord(dict(question))
            self.interventions.append(found)
        return found


@contextmanager
def edit_round(layout: Layout, ref: RoundRef) -> Iterator[RoundRecord]:
    """Yield a round's record as it is now; write it back when the block ends well and has changed something.

    One process at a time edits the records of a run, so that none overwrites what another has just written. That takes
    a lock, which a read-only store refuses (StoreError): where nothing may need to change, compare with
    `RoundRecord.load` first.
    """
    path = _path(layout, ref)
    with run_lock(layout, ref.run):
        record = RoundRecord.load(layout, ref)
        before = asdict(record)
        yield record
        after = asdict(record)
        if after != before:
            write_run_file(path, {**asdict(ref), **after})


@dataclass(slots=True)
class RunRecord:
    """The configurations of a run, each with the first round that it holds for."""

    configs: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, layout: Layout, run: str) -> RunRecord | None:
        """Return what is recorded of a run, or None when there is no such run. StoreError when its file is corrupt."""
        found = load_record(layout.run_record(run))
        if found is None:
            return None
        return cls({entry["from_round"]: entry["config"] for entry in found["configs"]})

    def config_at(self, round: int) -> dict[str, Any] | None:
        """Return the configuration that holds for a round: the last recorded at or before it, else the first of all.

        None: none is recorded.
        """
        if not self.configs:
            return None
        return self.configs[max((first for first in self.configs if first <= round), default=min(self.configs))]


def config_at(layout: Layout, run: str, round: int) -> dict[str, Any] | None:
    """Return the configuration that holds for a round of a run, or None when there is no such run."""
    record = RunRecord.load(layout, run)
    return None if record is None else record.config_at(round)


def record_config(layout: Layout, run: str, round: int, config: Mapping[str, Any]) -> bool:
    """Let a configuration hold from this round on, the first of a run from round 1. False when it already did."""
    if config_at(layout, run, round) == config:
        return False
    with run_lock(layout, run):
        record = RunRecord.load(layout, run) or RunRecord()
        record.configs[round if record.configs else 1] = dict(config)
        entries = [{"from_round": first, "config": record.configs[first]} for first in sorted(record.configs)]
        write_run_file(layout.run_record(run), {"run": run, "configs": entries})
    return True


def runs(layout: Layout) -> list[str]:
    """Return the names of the runs in the store."""
    return sorted(path.parent.name for path in layout.run_files("run.json"))


def run_folders(layout: Layout) -> list[str]:
    """Return the names of the runs, those that have lost their run.json among them."""
    files = layout.run_files("run.json", "*/round-*.json", "*/variant.json")
    return sorted({path.relative_to(layout.runs).parts[0] for path in files})


def rounds(layout: Layout, run: str, variant: str = MAIN) -> list[int]:
    """Return the rounds of a run that have begun, in order."""
    folder = layout.round(run, variant, 1).parent
    return sorted(int(path.stem.removeprefix("round-")) for path in folder.glob("round-*.json"))


def variants(layout: Layout, run: str) -> list[str]:
    """Return the variants of a run, the main line first."""
    patterns = ("round-*.json", "variant.json")
    found = {path.parent.name for pattern in patterns for path in layout.run(run).glob(f"*/{pattern}")}
    return sorted(found, key=lambda name: (name != MAIN, name))


def references(layout: Layout) -> Iterator[Reference]:
    """Yield every step of every round of every variant of every run, those that have lost their run.json among them."""
    for run in run_folders(layout):
        for variant in variants(layout, run):
            for round in rounds(layout, run, variant):
                yield from references_of(layout, RoundRef(run, round, variant))


def references_of(layout: Layout, ref: RoundRef) -> Iterator[Reference]:
    """Yield every step of one round, then those of what was asked of its states."""
    record = RoundRecord.load(layout, ref)
    for steps in (record.steps, *(entry.steps for entry in record.interventions)):
        for step, result in sorted(steps.items()):
            yield Reference(ref.run, ref.round, ref.variant, step, result.stage, result.key)


@contextmanager
def run_lock(layout: Layout, run: str) -> Iterator[None]:
    """Hold the lock under which a run's records are edited. StoreError when another process keeps it too long."""
    with short_lock(layout, f"records-{run}", f"run '{run}'"):
        yield


def load_record(path: Path) -> dict[str, Any] | None:
    """Return a record of a run's folder, or None when there is none. StoreError with the cure when it is corrupt."""
    try:
        return records.read_record(path)
    except StoreError as error:
        raise StoreError(
            f"{error}; put back a copy, or delete it: the artifacts it named are kept and found again by the same "
            f"configuration"
        ) from error


def write_run_file(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record into a run's folder, which is made where it is missing. StoreError when the disk refuses."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write_record(path, record)


def _path(layout: Layout, ref: RoundRef) -> Path:
    return layout.round(ref.run, ref.variant, ref.round)


def _step_records(found: Mapping[str, Mapping[str, str]]) -> dict[str, StepRecord]:
    return {step: StepRecord(**entry) for step, entry in found.items()}
