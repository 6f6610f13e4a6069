"""Run a round's steps: reuse what is there, make what is missing, check it, close it, record it.

This is the one driver of a step. `RoundRunner.attempts` hands out runs of a step; whoever drives makes their parts, one
after another here (`RoundRunner.run`) or as Prefect task runs in `pipeline/flows`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from configs.errors import C3Error, LimitReachedError
from pipeline.execution.context import ExecutionContext
from pipeline.rounds.recording import record_failure, record_result
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.state import StepState
from pipeline.steps import Step
from stages.base.inputs import Part
from stages.base.job import RETRIED
from stages.mismatch.engine_check import ensure_agreement
from store.artifacts.artifact import Artifact, provisional, remove
from store.artifacts.writer import ArtifactWriter, open_writer
from store.disk.thread_pool import thread_pool
from store.queries.checks import run_checks

LIBRARIES = ("torch", "transformers", "peft", "vllm", "duckdb", "pyarrow", "scipy", "prefect")


@dataclass
class StepReport:
    """Say what became of one step: for the receipt and the round's summary."""

    name: str
    stage: str
    reused: bool
    seconds: float = 0.0
    parts_made: int = 0
    parts_reused: int = 0
    usage: Mapping[str, int] = field(default_factory=dict)
    """Spent now: reused parts are not in it."""
    saved: Mapping[str, int] = field(default_factory=dict)
    """Spent when the reused parts were made."""
    saved_seconds: float = 0.0
    rows_equal: bool | None = None
    """Whether what was made again is what was there; None when nothing was."""
    corruption: Sequence[str] = ()
    """What was found corrupt and made again, a line each."""


class StepRun:
    """Make one step, or reuse it: what is missing of it, and what it comes to."""

    def __init__(
        self,
        resolver: StepResolver,
        state: StepState,
        context: ExecutionContext,
        before: Artifact | None = None,
        recorded: bool = True,
    ) -> None:
        """`before`: what is there already, where the step is made again beside it.

        `recorded`: whether the round's record keeps a failure; not while nothing of the round may be recorded yet.
        """
        self.resolver = resolver
        self.state = state
        self.context = context
        self.before = before
        self._recorded = recorded
        self.artifact = state.artifact
        """The step's result, once it is there."""
        self.report = (
            reused_report(state) if state.artifact else StepReport(state.step.name, state.step.stage.name, False)
        )
        self.parts: list[Part] = []
        """All parts, once opened."""
        self._kept: dict[int, dict[str, Any]] = {}
        self._started = time.perf_counter()

    @property
    def reused(self) -> bool:
        """Whether the result was there."""
        return self.report.reused

    @property
    def missing(self) -> list[Part]:
        """The parts to make."""
        return [part for part in self.parts if part.index not in self._kept]

    @property
    def kept(self) -> list[Part]:
        """The parts that an interrupted command left."""
        return [part for part in self.parts if part.index in self._kept]

    @contextmanager
    def open(self) -> Iterator[ArtifactWriter]:
        """Hold the artifact's lock while parts are made. An error is remembered for `c3 status`, unless a cap was reached."""
        stage, job = self.state.step.stage, self.state.job
        try:
            self.context.progress.start(self.state.step.name, stage.messages(job))
            try:
                with open_writer(self.resolver.round.layout, stage.name, self.state.key) as writer:
                    self.parts = list(stage.cut(job))
                    found = {part.index: writer.part(part.index) for part in self.parts}
                    self._kept = {index: record for index, record in found.items() if record is not None}
                    yield writer
            finally:
                self.context.progress.finish()
        except C3Error as error:
            if self._recorded and not isinstance(error, LimitReachedError):
                record_failure(self.resolver, self.state.step, str(error))
            raise

    def make_here(self) -> Artifact:
        """Make the missing parts one after another, unless the result is there; return it."""
        if self.artifact is not None:
            return self.artifact
        with self.open() as writer:
            made = {part.index: make_part(writer, self.state, part, self.context) for part in self.missing}
            return self.close(writer, made)

    def close(self, writer: ArtifactWriter, made: Mapping[int, Mapping[str, Any]]) -> Artifact:
        """Check all parts against the plan and write the manifest. `made`: the missing parts' records by index."""
        records = [self._kept.get(part.index) or dict(made[part.index]) for part in self.parts]
        report = self.report
        report.parts_reused, report.parts_made = len(self._kept), len(self.parts) - len(self._kept)
        report.usage, report.saved = _total(made.values()), _total(self._kept.values())
        report.saved_seconds = sum(record["seconds"] for record in self._kept.values())
        report.corruption = tuple(writer.corruption)
        whole = provisional(self.state.step.stage.name, self.state.key, writer.path, records)
        checked = thread_pool().submit(check, self.state, whole)  # DuckDB checks while the rows are digested
        try:
            artifact = writer.finish(records, _description(self.state), checked.result)
        finally:
            wait([checked])
        report.seconds = time.perf_counter() - self._started
        if self.before is not None:
            report.rows_equal = artifact.digest == self.before.digest
            if report.rows_equal:  # of equal rows the first stay, so that everything after them is still reused
                remove(artifact)
                artifact = self.before
        self.artifact = artifact
        return artifact


class RoundRunner:
    """Run steps of one round in order; keep their results and reports."""

    def __init__(
        self,
        resolver: StepResolver,
        context: ExecutionContext,
        artifacts: Mapping[str, Artifact] | None = None,
        rerun: Sequence[str] = (),
    ) -> None:
        """`artifacts`: results that the steps read and that are there. `rerun`: steps to make again beside what is there."""
        self.resolver = resolver
        self.context = context
        self.artifacts = dict(artifacts or {})
        self.reports: list[StepReport] = []
        self._rerun = set(rerun)

    def attempts(self, step: Step) -> Iterator[StepRun]:
        """Yield the step's run; the caller makes it, then it is recorded. A pending retry is a second run after it."""
        while True:
            state = self.resolver.resolve(step, self.artifacts)
            before = state.artifact
            if before is not None and step.name in self._rerun:
                state = self.resolver.copy(state)
            run = StepRun(self.resolver, state, self.context, before)
            yield run
            assert run.artifact is not None, "whoever drives makes the run"
            self.artifacts[step.name] = run.artifact
            self.reports.append(run.report)
            record_result(self.resolver, step, run.artifact)
            if not state.retry_pending:
                return

    def record(self, steps: Sequence[Step]) -> None:
        """Point the round at the results of steps that are there."""
        for step in steps:
            record_result(self.resolver, step, self.artifacts[step.name])

    def run(self, step: Step) -> Artifact:
        """Make or reuse a step here, its parts one after another; return its result."""
        for run in self.attempts(step):
            run.make_here()
        return self.artifacts[step.name]


def make_part(writer: ArtifactWriter, state: StepState, part: Part, context: ExecutionContext) -> dict[str, Any]:
    """Make one part and put it in place; return its record. LimitReachedError when a cap is reached before it."""
    context.limits.check()
    resources, stage = context.ready(), state.step.stage
    if stage.weights == "samples" and stage.messages(state.job):
        ensure_agreement(resources, state.job.config, state.job.weights)
    started = time.perf_counter()
    output = stage.make(part, state.job, resources)
    record = writer.write(part.index, output, time.perf_counter() - started)
    context.limits.add(stage.name, output.usage)
    return record


def check(state: StepState, artifact: Artifact, planned: bool = True) -> None:
    """Run the stage's SQL checks over its inputs and its own rows. CheckError when the plan was not spent exactly.

    `planned`: whether the job's configuration is the one that the rows were made under; else nothing is held to its plan.
    """
    inputs = [given for name, given in state.job.inputs.items() if name != RETRIED]
    stage = state.step.stage
    spending = stage.spending(state.job) if planned else None
    run_checks(state.step.name, stage.tables, [*inputs, artifact], spending)


def reused_report(state: StepState) -> StepReport:
    """Return the report of a step whose result is there."""
    assert state.artifact is not None
    return StepReport(
        state.step.name,
        state.step.stage.name,
        reused=True,
        parts_reused=len(state.artifact.manifest["parts"]),
        saved=state.artifact.usage,
        saved_seconds=state.artifact.manifest["seconds"],
    )


def _total(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for record in records:
        for name, spent in record["usage"].items():
            total[name] = total.get(name, 0) + spent
    return total


def _description(state: StepState) -> dict[str, Any]:
    """Return what the manifest says of how it was made; times and machines stay out of keys and digests."""
    return {
        "cache_key_inputs": state.cache_key_inputs,
        "inputs": {
            name: {"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}
            for name, artifact in state.job.inputs.items()
        },
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "created_for": dict(state.requested_by),
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@lru_cache
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
