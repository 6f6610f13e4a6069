"""Grade: the evaluator's reward for every finished episode. Its own stage, so that another evaluator regenerates nothing.

Reads problems, transcripts and replays; writes rewards (a finished episode). Where the evaluator failed, the reward is
NULL, not 0, with the error beside it; the stage stops when too many are. A retry grades what the evaluator failed on
again, and nothing else.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from configs.errors import EvaluatorError
from stages.base.inputs import Part
from stages.base.job import GradeJob
from stages.base.parts import cut_by_problem_of
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.evaluators.protocol import Evaluator
from stages.evaluators.registry import evaluator_identity
from stages.problem_sources.protocol import Problem
from store.artifacts.artifact import Row, StageOutput


def _slice(job: GradeJob) -> dict[str, Any]:
    return {
        "problems_per_part": job.config.parts.problems_per_part,
        "max_unscored_share": job.config.grade.max_unscored_share,
        "evaluator": evaluator_identity(job.config.grade.evaluator),
    }


def _make(part: Part, job: GradeJob, resources: Resources) -> StageOutput:
    config = job.config.grade
    evaluator = resources.evaluator(config.evaluator)
    episodes = [*job.rows_of("transcripts", part), *job.rows_of("replays", part)]
    # only a retry has rewards before it: what was graded then is kept, what the evaluator failed on is graded again
    kept = {row["episode_id"]: row for row in job.rows_of("rewards", part) if row["error"] is None}
    rewards = [
        kept.get(episode["episode_id"])
        or _reward(evaluator, config.evaluator.kind, episode, job.problems[episode["problem_id"]])
        for episode in episodes
    ]
    failed = [row for row in rewards if row["error"] is not None]
    if len(failed) > config.max_unscored_share * len(rewards):
        raise EvaluatorError(
            f"grade: the {config.evaluator.kind} evaluator failed on {len(failed)} of {len(rewards)} answers, more than "
            f"grade.max_unscored_share = {config.max_unscored_share:g} allows; first: {failed[0]['error']} "
            f"(episode {failed[0]['episode_id']})"
        )
    graded = len(rewards) - len(kept)
    usage = {"evaluations": graded}
    if job.retry:
        usage |= {"retried": graded, "now_scored": graded - len(failed)}
    return StageOutput({"rewards": rewards}, usage=usage)


def _reward(evaluator: Evaluator, kind: str, episode: Row, problem: Problem) -> Row:
    row: Row = {
        "episode_id": episode["episode_id"],
        "problem_id": episode["problem_id"],
        "decision_ids": episode["decision_ids"],
        "credited": episode["credited"],
        "reward": None,
        "reason": None,
        "parsed_answer": None,
        "error": None,
        "evaluator": kind,
    }
    try:
        grade = evaluator.grade(episode["output"], problem)
        if not isfinite(grade.reward):
            raise ValueError(f"the reward is {grade.reward}, which is no finite number")
    except Exception as error:  # the evaluator boundary: whatever broke in there is recorded, never a zero
        text = f"{type(error).__name__}: {error}"
        return {**row, "error": text.encode("utf-8", "backslashreplace").decode()}  # half a surrogate cannot be stored
    return {**row, "reward": grade.reward, "reason": grade.reason, "parsed_answer": grade.parsed_answer}


GRADE = Stage("grade", 2, ("rewards",), _slice, cut_by_problem_of("transcripts", "replays"), _make, job_type=GradeJob)
