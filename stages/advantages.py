"""Advantages: what each alternative was worth, by an estimator's .sql file in DuckDB.

Reads transcripts, replays, rewards and decisions; writes advantages (an alternative).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stages.stage import Job, Part, Stage, one_part
from stages.tools import Tools
from store.artifacts import Product
from store.identity import file_digest
from store.query import estimator_file, write_advantages


def _slice(job: Job) -> dict[str, Any]:
    config = job.config.advantages
    return {**config.model_dump(mode="json"), "sql": file_digest(estimator_file(config.estimator))}


def _make(part: Part, job: Job, tools: Tools) -> Product:
    config = job.config.advantages
    return Product(write_files=partial(_write, job, config.estimator, config.group_by))


def _write(job: Job, estimator: str, group_by: str, folder: Path) -> None:
    write_advantages(list(job.inputs.values()), estimator, group_by, folder / "advantages.parquet")


ADVANTAGES = Stage("advantages", 1, _slice, one_part, _make)
