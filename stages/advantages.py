"""Advantages: what each alternative is worth, by an estimator's .sql file in DuckDB.

Reads rewards (which name their messages) and decisions, and where the estimator reads them the ablated
replays or the critic's values; writes advantages (an alternative).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.parts import one_part
from stages.base.resources import Resources
from stages.base.stage import Stage
from store.artifacts.artifact import StageOutput
from store.disk.hashing import file_digest
from store.queries.advantages import write_advantages
from store.queries.estimators import estimator


def _slice(job: Job) -> dict[str, Any]:
    config = job.config.advantages
    # ablated replays are an input: their number is in the digest of what they earned
    return {
        **config.model_dump(mode="json", exclude={"ablated_replays"}),
        "sql": file_digest(estimator(config.estimator).path),
    }


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    return StageOutput(write_files=partial(_write, job))


def _write(job: Job, folder: Path) -> None:
    config = job.config.advantages
    target = folder / "advantages.parquet"
    ablated = [artifact for name, artifact in job.inputs.items() if name.startswith("ablated")]
    stored = [artifact for artifact in job.inputs.values() if artifact not in ablated]
    write_advantages(stored, config.estimator, config.normalisation, config.group_by, target, ablated)


ADVANTAGES = Stage("advantages", 4, ("advantages",), _slice, one_part, _make)
