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
from store.credit import estimator_file, write_advantages
from store.identity import file_digest


def _slice(job: Job) -> dict[str, Any]:
    config = job.config.advantages
    return {**config.model_dump(mode="json"), "sql": file_digest(estimator_file(config.estimator))}


def _make(part: Part, job: Job, tools: Tools) -> Product:
    return Product(write_files=partial(_write, job))


def _write(job: Job, folder: Path) -> None:
    config = job.config.advantages
    target = folder / "advantages.parquet"
    write_advantages(list(job.inputs.values()), config.estimator, config.normalisation, config.group_by, target)


ADVANTAGES = Stage("advantages", 2, _slice, one_part, _make)
