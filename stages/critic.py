"""Critic: what every alternative's return was expected to be, by value heads on the frozen policy's backbone.

Reads contexts, decisions, transcripts, replays and rewards; writes critic_values (an alternative). A head per role, fitted on the
round's own mean returns, each alternative's values predicted by one that never saw its problem.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.parts import one_part
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.learners.protocol import HiddenStates, Learner, TrainRow
from store.artifacts.artifact import Row, StageOutput
from store.disk.ids import seed_from
from store.queries.advantages import stored_returns


def _slice(job: Job) -> dict[str, Any]:
    config = job.config
    return {
        "critic": config.critic.model_dump(mode="json"),
        "layout": config.update.layout,
        "max_tokens": config.update.max_tokens,
        "temperature": config.sampling.temperature,
        "adapters": {
            name: policy.model_dump(mode="json", include={"weights", "lora_rank", "lora_alpha", "target_modules"})
            for name, policy in sorted(config.policies.items())
        },
    }


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    decisions = {row["decision_id"]: row for row in job.rows("decisions")}
    context_of = {row["state_id"]: tuple(row["token_ids"]) for row in job.rows("contexts")}
    # a message that had no sibling to compare with may stand at a state that nobody froze: nothing was kept to read
    credited = [row for row in stored_returns(list(job.inputs.values())) if row["state_id"] in context_of]
    rows = [
        TrainRow(
            row["decision_id"],
            decisions[row["decision_id"]]["policy"],
            context_of[row["state_id"]],
            tuple(decisions[row["decision_id"]]["token_ids"]),
            job.config.sampling.temperature,
        )
        for row in credited
    ]
    learner = resources.learner(job.config)
    learner.load(job.weights, seed_from("adapter", job.config.seed))
    readings = _read(learner, rows, job.config.update.max_tokens)
    by_role: defaultdict[str, list[Row]] = defaultdict(list)
    for row in credited:
        by_role[row["role"]].append(row)
    values = [value for role in job.roles for value in _values(by_role[role.name], readings, job.config.critic.folds)]
    return StageOutput({"critic_values": values})


def _read(learner: Learner, rows: list[TrainRow], max_tokens: int) -> dict[str, HiddenStates]:
    """Return decision -> what its policy's weights know of it."""
    found: dict[str, HiddenStates] = {}
    for policy in sorted({row.policy for row in rows}):
        mine = [row for row in rows if row.policy == policy]
        for batch in learner.batches(mine, max_tokens):
            found |= {row.decision_id: reading for row, reading in zip(batch, learner.read(batch), strict=True)}
    return found


def _values(credited: list[Row], readings: dict[str, HiddenStates], folds: int) -> list[Row]:
    """Return the rows of one role."""
    if not credited:
        return []
    import numpy as np

    from stages.learners.value_head import cross_fitted  # scikit-learn takes a second to import

    mine = [readings[row["decision_id"]] for row in credited]
    return_N = np.array([np.nan if row["mean_return"] is None else row["mean_return"] for row in credited])
    replays_N = np.array([float(row["replay_count"]) for row in credited])
    problem_N = [row["problem_id"] for row in credited]
    predicted = [
        cross_fitted(np.stack([state.cpu().numpy() for state in states]), return_N, replays_N, problem_N, folds)
        for states in ([reading.context_D for reading in mine], [reading.message_D for reading in mine])
    ]
    return [
        {
            "decision_id": row["decision_id"],
            "problem_id": row["problem_id"],
            "role": row["role"],
            "state_value": None if np.isnan(state) else float(state),
            "action_value": None if np.isnan(action) else float(action),
        }
        for row, state, action in zip(credited, *predicted, strict=True)
    ]


CRITIC = Stage("critic", 1, ("critic_values",), _slice, one_part, _make, weights="trains")
