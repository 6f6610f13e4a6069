"""Interventions: a given message put into frozen states and continued to the end, under the round's frozen policy.

For the stages that measure what a state is worth with another message in it, or with none. An intervention is
nobody's decision: it has no log-prob, it is in no group, and what follows it is drawn apart from the round.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.base.job import Job
from stages.base.resources import Resources
from stages.episodes.continuation import Injected, continuations
from stages.episodes.rows import in_order, usage_of
from stages.episodes.state import frozen_state
from stages.episodes.team import Team
from store.artifacts.artifact import Row, StageOutput
from store.disk.ids import Draws, decision_id


def intervene(
    job: Job,
    resources: Resources,
    contexts: Sequence[Row],
    text: str,
    replays: int,
    purpose: str,
    problem_ids: Sequence[str],
) -> StageOutput:
    """Put the message into each of the states and continue it `replays` times: interventions, replays and decisions.

    `contexts`: the states, as rows of contexts. `purpose`: keeps these draws apart from all others. An intervention of the last
    role ends its episode, so it has one evaluation whatever `replays` says.
    """
    codec = resources.codec(job.config)
    token_ids = codec.encode_message(text)
    read = codec.decode(token_ids)  # what later roles are shown of a message is its decoded tokens
    interventions: list[Row] = []
    decisions: list[Row] = []
    ended: list[Row] = []
    for depth in sorted({row["depth"] for row in contexts}):
        # a draw of one role may have the path of another's: each role's interventions have draws of their own
        draws = Draws(
            job.config.seed, job.round, job.weights.version, job.draw_set, f"{purpose} {job.tree.roles[depth - 1]}"
        )
        here = [row for row in contexts if row["depth"] == depth]
        rows = [_intervention(job, draws, row, read, len(token_ids), replays) for row in here]
        injected = [
            Injected(frozen_state(context, job.problems[context["problem_id"]]), _message(row), range(replays))
            for context, row in zip(here, rows, strict=True)
        ]
        team = Team(job, resources.engine(job.config, job.weights), draws)
        continued = continuations(team, job.tree.depth, injected, resources.on_message)
        interventions, decisions, ended = [*interventions, *rows], [*decisions, *continued[0]], [*ended, *continued[1]]
    return StageOutput(
        {
            "interventions": in_order(interventions, problem_ids),
            "replays": in_order(ended, problem_ids),
            "decisions": in_order(decisions, problem_ids),
        },
        usage=usage_of(decisions, len(ended)),
    )


def intervention_cost(job: Job, contexts: Sequence[Row], replays: int) -> dict[str, int]:
    """Return what that costs: states, evaluations, messages, and new tokens at most."""
    following = [role for row in contexts for role in job.roles[row["depth"] :]]
    return {
        "states": len(contexts),
        "evaluations": sum(evaluations_of(job, row, replays) for row in contexts),
        "messages": replays * len(following),
        "tokens_at_most": replays * sum(job.config.max_new_tokens(role) for role in following),
    }


def evaluations_of(job: Job, context: Row, replays: int) -> int:
    """Return the number of evaluations of an intervention at a state: one where nothing follows it."""
    return 1 if context["depth"] == job.tree.depth else replays


def _intervention(job: Job, draws: Draws, context: Row, text: str, tokens: int, replays: int) -> Row:
    path = (*context["path"], 0)
    return {
        "intervention_id": decision_id(draws, context["problem_id"], path),
        "state_id": context["state_id"],
        "problem_id": context["problem_id"],
        "role": context["role"],
        "depth": context["depth"],
        "path": list(path),
        "text": text,
        "tokens": tokens,
        "replays": evaluations_of(job, context, replays),
        "policy_version": job.weights.version,
    }


def _message(intervention: Row) -> Row:
    """Return the intervention as the message that later roles read."""
    return {
        "decision_id": intervention["intervention_id"],
        "problem_id": intervention["problem_id"],
        "role": intervention["role"],
        "path": intervention["path"],
        "draw": intervention["path"][-1],
        "text": intervention["text"],
        "finish_reason": "stop",
    }
