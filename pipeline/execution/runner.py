"""Making one step: its missing parts, the checks, the manifest. No Prefect here; the flow calls these."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.execution.limits import Limits
from pipeline.rounds.state import Look
from stages.base.job import RETRIED, Part
from stages.base.resources import Resources
from stages.mismatch.engine_check import ensure_agreement
from store.artifacts.artifact import Artifact, provisional
from store.artifacts.writer import ArtifactWriter
from store.disk.thread_pool import thread_pool
from store.queries.checks import run_checks

LIBRARIES = ("torch", "transformers", "peft", "vllm", "duckdb", "pyarrow", "scipy", "prefect")


@dataclass
class StepReport:
    """What became of one step: for the receipt and the round's summary."""

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


PartsMaker = Callable[[Sequence[Part]], Sequence[dict[str, Any]]]
"""Makes parts (as task runs, say), in whatever order, and returns their records in the order asked."""


def make_part(writer: ArtifactWriter, look: Look, part: Part, resources: Resources, limits: Limits) -> dict[str, Any]:
    """Make one part and put it in place; its record."""
    limits.check()
    if look.step.stage.weights == "samples" and look.step.stage.messages(look.job):
        ensure_agreement(resources, look.job.config, look.job.weights)
    started = time.perf_counter()
    output = look.step.stage.make(part, look.job, resources)
    record = writer.write(part.index, output, time.perf_counter() - started)
    limits.add(look.step.stage.name, output.usage)
    return record


def make_step(
    writer: ArtifactWriter,
    look: Look,
    make: PartsMaker,
    tell_kept: Callable[[Sequence[Part]], None] = lambda parts: None,
) -> tuple[Artifact, StepReport]:
    """Make what is missing of a step, check it against the plan, and close it. `tell_kept` hears of the parts that are there."""
    started = time.perf_counter()
    report = StepReport(look.step.name, look.step.stage.name, reused=False)
    parts = list(look.step.stage.cut(look.job))
    there = {part.index: writer.part(part.index) for part in parts}
    missing = [part for part in parts if there[part.index] is None]
    tell_kept([part for part in parts if there[part.index]])
    made = dict(zip((part.index for part in missing), make(missing), strict=True))
    records = [there[part.index] or made[part.index] for part in parts]
    report.parts_reused = sum(record is not None for record in there.values())
    report.parts_made = len(parts) - report.parts_reused
    report.usage = _total([record for part, record in zip(parts, records, strict=True) if not there[part.index]])
    report.corruption = tuple(writer.corruption)
    report.saved = _total([record for record in there.values() if record])
    report.saved_seconds = sum(record["seconds"] for record in there.values() if record)
    whole = provisional(look.step.stage.name, look.key, writer.path, records)
    checked = thread_pool().submit(check, look, whole)  # DuckDB checks while the rows are digested
    try:
        artifact = writer.finish(records, _description(look), checked.result)
    finally:
        wait([checked])
    report.seconds = time.perf_counter() - started
    return artifact, report


def reused(look: Look, artifact: Artifact) -> StepReport:
    """The report of a step that was there."""
    return StepReport(
        look.step.name,
        look.step.stage.name,
        reused=True,
        parts_reused=len(artifact.manifest["parts"]),
        saved=artifact.usage,
        saved_seconds=artifact.manifest["seconds"],
    )


def check(look: Look, artifact: Artifact, planned: bool = True) -> None:
    """The stage's SQL checks over its inputs and its own rows. CheckError when the plan was not spent exactly.

    `planned`: whether the job's configuration is the one that the rows were made under; else nothing is held to its plan.
    """
    inputs = [given for name, given in look.job.inputs.items() if name != RETRIED]
    stage = look.step.stage
    spending = stage.spending(look.job) if planned else None
    run_checks(look.step.name, stage.tables, [*inputs, artifact], spending)


def _total(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for record in records:
        for name, spent in record["usage"].items():
            total[name] = total.get(name, 0) + spent
    return total


def _description(look: Look) -> dict[str, Any]:
    """What the manifest says of how it was made; times and machines stay out of keys and digests."""
    return {
        "cache_key_inputs": look.cache_key_inputs,
        "inputs": {
            name: {"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}
            for name, artifact in look.job.inputs.items()
        },
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "created_for": dict(look.requested_by),
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@lru_cache
def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
