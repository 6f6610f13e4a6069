"""Problems: the problem set, read or generated once.

Reads the configured source; writes problems. The training set and the evaluation set are two artifacts of it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from configs.errors import ConfigError
from configs.problems import ProblemsConfig
from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.parts import one_part
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.problem_sources.registry import load_problems, source_identity
from store.artifacts.artifact import StageOutput


def _source(job: Job, heldout: bool) -> ProblemsConfig:
    if not heldout:
        return job.config.problems
    if job.config.evaluate.problems is None:
        raise ConfigError(
            "evaluate.problems: not configured, so there is nothing to evaluate on; add [evaluate.problems]"
        )
    return job.config.evaluate.problems


def _stage(heldout: bool) -> Stage[Job]:
    def config_slice(job: Job) -> dict[str, Any]:
        return {"source": source_identity(_source(job, heldout))}

    def make(part: Part, job: Job, resources: Resources) -> StageOutput:
        return StageOutput({"problems": [asdict(problem) for problem in load_problems(_source(job, heldout))]})

    return Stage("problems", 1, ("problems",), config_slice, one_part, make)


PROBLEMS = _stage(heldout=False)
HELDOUT = _stage(heldout=True)
