"""`c3 why`: one advantage taken apart, as plain data. pipeline/views/why.py prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.errors import ConfigError
from pipeline.formatting import number, signed
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.stored import stored_artifacts
from stages.models.identity import make_codec
from store.artifacts.artifact import Row
from store.queries.estimators import Estimator, estimator
from store.queries.why import Explanation, explanation_of

Page = dict[str, Any]
"""run, round, variant, estimator, normalisation, and groups: each a state, its alternatives and their replays.

A group's context, its number of tokens and its upstream messages are None where nothing branched and so nothing was frozen.
"""

NEEDED = ("problems", "rollout", "freeze", "sample", "replay", "grade", "advantages")


def explain(resolver: StepResolver, question: str, parameters: Mapping[str, Any]) -> Page:
    """Return everything that explains the advantages that a question picks. ConfigError when it picks none."""
    roles = [role.name for role in resolver.round.config.roles]
    if parameters.get("role") not in (None, *roles):
        raise ConfigError(f"c3 why: --role {parameters['role']}: no such role; there is {', '.join(roles)}")
    found = explanation_of(stored_artifacts(resolver, NEEDED, also=("update",)), question, parameters)
    if not found.chosen:
        raise ConfigError(
            f"c3 why: nothing in round {resolver.round.ref.round} of run '{resolver.round.ref.run}' "
            f"answers to {_described(parameters)}; "
            f'`c3 sql "SELECT decision_id, state_id, problem_id, role, advantage FROM advantages"` lists what is there'
        )
    first = found.alternatives[0]
    return {
        "run": resolver.round.ref.run,
        "round": resolver.round.ref.round,
        "variant": resolver.round.ref.variant,
        "estimator": first["estimator"],
        "normalisation": first["normalisation"],
        "groups": _groups(resolver, found),
    }


def question_of(
    id: str | None, role: str | None, worst: int | None, best: int | None, tied: int | None
) -> tuple[str, dict[str, Any]]:
    """Return the command line's question in store/sql/why and its parameters. ConfigError unless there is exactly one."""
    requested = [value for value in (id, worst, best, tied) if value is not None]
    if len(requested) != 1 or (id is not None and role is not None):
        raise ConfigError(
            "c3 why: ask for one thing: the ID of a decision, state or problem, or --worst N, --best N or --tied N "
            "(these with --role NAME if wanted), as in `c3 why --role actor --worst 5`"
        )
    if id is not None:
        return "by_id", {"id": id}
    if tied is not None:
        return "tied", {"role": role, "count": tied}
    return "by_advantage", {"role": role, "best": best is not None, "count": best or worst}


def _described(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters.items() if value is not None)


def _groups(resolver: StepResolver, found: Explanation) -> list[Page]:
    """Return one page per group of the picked decisions, in their order."""
    codec = make_codec(resolver.round.config.engine)
    members: dict[str, list[Row]] = {}
    for row in found.alternatives:
        members.setdefault(row["group_id"], []).append(row)
    group_of = {row["decision_id"]: row["group_id"] for row in found.alternatives}
    requested: dict[str, list[str]] = {}
    for decision in found.chosen:
        requested.setdefault(group_of[decision], []).append(decision)
    pages = []
    for group, decisions in requested.items():
        rows = members[group]
        chosen = next(row for row in rows if row["decision_id"] == decisions[0])
        state = found.states[chosen["state_id"]]
        pages.append(
            {
                "group_id": group,
                "state_id": chosen["state_id"],
                "context_id": chosen["context_id"],
                "problem_id": chosen["problem_id"],
                "question": state["question"],
                "answer": state["answer"],
                "role": chosen["role"],
                "context": None if state["token_ids"] is None else codec.decode(state["token_ids"]),
                "context_tokens": None if state["token_ids"] is None else len(state["token_ids"]),
                "upstream": state["upstream"],
                "alternatives": [_alternative(row, rows, found, row["decision_id"] in decisions) for row in rows],
            }
        )
    return pages


def _alternative(row: Row, group: Sequence[Row], found: Explanation, requested: bool) -> Page:
    own = ("decision_id", "state_id", "draw", "is_logged", "text", "finish_reason", "new_tokens", "group_size")
    credit = ("mean_return", "replay_count", "unscored_count", "baseline", "advantage")
    trained = {
        "advantage": row["trained_advantage"],
        "skipped": row["skipped"],
        "behaviour_logprob": row["behaviour_logprob"],
        "policy_logprob": row["policy_logprob"],
    }
    return {
        **{name: row[name] for name in (*own, *credit)},
        "requested": requested,
        "arithmetic": arithmetic(row, group),
        "update_rows": trained if row["was_updated"] else None,
        "replays": [
            {name: value for name, value in replay.items() if name != "decision_id"}
            for replay in found.replays[row["decision_id"]]
        ],
    }


def arithmetic(row: Row, group: Sequence[Row]) -> list[str]:
    """Return how the advantage came about, in the numbers of the table: one line per step."""
    chosen = estimator(row["estimator"])
    if chosen.credits == "values":
        return _of_values_alone(row, chosen)
    if row["mean_return"] is None:
        return ["no replay of it was scored, so its return and its advantage are unknown (NULL)"]
    others = [other for other in group if other is not row and other["mean_return"] is not None]
    if row["baseline"] is None:
        return ["there is nothing to compare it with, so its advantage is unknown (NULL)"]
    lines = [_baseline(row, others, chosen)]
    difference = row["mean_return"] - row["baseline"]
    lines.append(f"A = Q - b = {number(row['mean_return'])} - {number(row['baseline'])} = {signed(difference)}")
    if row["normalisation"] != "none":
        lines.append(f"{row['normalisation']}: {signed(row['advantage'])}")
    return lines


def _of_values_alone(row: Row, chosen: Estimator) -> list[str]:
    """Return the arithmetic where no return is used: Q^ is in critic_values."""
    if row["advantage"] is None:
        return ["no value head predicted it or its siblings, so its advantage is unknown (NULL)"]
    b = number(row["baseline"])
    lines = [f"b = {b}, {chosen.baseline}", "A = Q^ - b, by the value head's Q^ alone: its returns are not used"]
    if row["normalisation"] == "none":
        value = number(row["advantage"] + row["baseline"])
        lines[1] = f"A = Q^ - b = {value} - {b} = {signed(row['advantage'])}, by values alone"
        return lines
    return [*lines, f"{row['normalisation']}: {signed(row['advantage'])}"]


def _baseline(row: Row, others: Sequence[Row], chosen: Estimator) -> str:
    b = number(row["baseline"])
    if chosen.worked_from is None:
        return f"b = {b}, {chosen.baseline}"
    if len({other["mean_return"] for other in (row, *others)}) == 1:
        return f"b = {b}: all {len(others) + 1} returns tie"
    if chosen.worked_from == "others":
        counts = [other["replay_count"] for other in others]
        terms = " + ".join(f"{c} x {number(other['mean_return'])}" for c, other in zip(counts, others, strict=True))
        return f"b = ({terms}) / ({' + '.join(map(str, counts))}) = {b}, {chosen.baseline}"
    terms = " + ".join(number(other["mean_return"]) for other in (row, *others))
    return f"b = ({terms}) / {len(others) + 1} = {b}, {chosen.baseline}"
