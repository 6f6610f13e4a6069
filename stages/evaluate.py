"""Evaluate: how well the team answers a fixed problem set.

Reads problems, transcripts, decisions and rewards of the greedy answers; writes evaluations (an answer).
"""

from __future__ import annotations

from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.parts import one_part
from stages.base.resources import Resources
from stages.base.stage import Stage
from store.artifacts.artifact import StageOutput


def _slice(job: Job) -> dict[str, Any]:
    return {}


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    decisions = {row["decision_id"]: row for row in job.rows("decisions")}
    rewards = {row["episode_id"]: row for row in job.rows("rewards")}
    evaluations = []
    for transcript in job.rows("transcripts"):
        problem = job.problems[transcript["problem_id"]]
        reward = rewards[transcript["episode_id"]]
        messages = [decisions[decision_id] for decision_id in transcript["decision_ids"]]
        evaluations.append(
            {
                "problem_id": problem.problem_id,
                "suite": problem.suite,
                "output": transcript["output"],
                "parsed_answer": reward["parsed_answer"],
                "answer": problem.answer,
                "reward": reward["reward"],
                "reason": reward["reason"] or reward["error"],
                "truncated": transcript["truncated"],
                "messages": [
                    {"role": message["role"], "decision_id": message["decision_id"], "text": message["text"]}
                    for message in messages
                ],
                "new_tokens": sum(message["new_tokens"] for message in messages),
                "policy_version": messages[-1]["policy_version"],
            }
        )
    return StageOutput({"evaluations": evaluations})


EVALUATE = Stage("evaluate", 1, ("evaluations",), _slice, one_part, _make)
