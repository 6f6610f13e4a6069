"""`c3 what-if`: another message at a frozen state, or none at all, and what the frozen team makes of it, as plain data.

What a person reads of it is in what_if_text.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import ConfigError
from pipeline.commands.run import run_intervention
from pipeline.commands.session import Session
from pipeline.execution.runner import StepReport
from pipeline.rounds.stored import stored_artifacts
from pipeline.steps import INTERVENTIONS
from stages.base.job import Intervention, InterventionJob
from stages.diagnostics.statistics import interval_of_draws, mean_over_groups
from stages.intervention import requested_cost
from store.artifacts.artifact import Artifact, Row
from store.disk.ids import seed_from
from store.queries.what_if import alternatives, endings, interventions, named_states

Page = dict[str, Any]
"""run, round, variant, what was requested and what it cost; `states`, a row per intervention; over them `mean`, `difference`.

Of a single state its alternatives and the intervention's replays too. None where it cannot be known: nothing scored, a
standard error of one replay, an interval over one problem.
"""

_NEEDED = ("problems", "rollout", "freeze", "sample", "replay", "grade", "advantages")


def ask(
    session: Session, name: str | None, role: str | None, message: str | None, empty: bool, replays: int
) -> Session:
    """Return the session with the intervention requested. ConfigError unless that is one message at one state or role."""
    if (name is None) == (role is None):
        raise ConfigError(
            "c3 what-if: say where: the ID of a state or of a decision there, or --role NAME for every state of a role"
        )
    if (message is None) == (not empty):
        raise ConfigError("c3 what-if: say what: one of --message TEXT, --message-file FILE and --empty")
    stored = stored_artifacts(session.resolver, _NEEDED)
    if name is None:
        known = [known.name for known in session.round.config.roles]
        if role not in known:
            raise ConfigError(f"c3 what-if --role {role}: no such role; there is {', '.join(known)}")
        return _with_intervention(session, Intervention(message or "", replays, role=role))
    found = named_states(stored, name)
    if not found:
        raise ConfigError(
            f"c3 what-if {name}: no frozen state of round {session.round.ref.round} of run '{session.round.ref.run}' "
            f'has that id, nor has a decision at one; `c3 sql "SELECT state_id, role FROM contexts"` lists them'
        )
    return _with_intervention(session, Intervention(message or "", replays, state_id=found[0]["state_id"]))


def _with_intervention(session: Session, intervention: Intervention) -> Session:
    return Session(replace(session.round, intervention=intervention), session.context)


def cost(session: Session) -> tuple[dict[str, int], bool]:
    """Return what the intervention costs, and whether it is stored already."""
    state = session.resolver.resolve(INTERVENTIONS.steps[0], session.resolver.inputs_of(INTERVENTIONS))
    assert isinstance(state.job, InterventionJob)
    return requested_cost(state.job), state.artifact is not None


def what_if(session: Session) -> tuple[Page, Sequence[StepReport]]:
    """Put the message there, continue and grade it (or find that done), and set it beside the alternatives."""
    assert session.round.intervention is not None
    intervention_cost, _ = cost(session)
    reports, answer = run_intervention(session)
    stored = stored_artifacts(session.resolver, _NEEDED)
    states = [_with_error(row) for row in interventions(stored, answer)]
    page: Page = {
        **session.round.label,
        "requested": asdict(session.round.intervention),
        "cost": intervention_cost,
        "role": states[0]["role"],
        "text": states[0]["text"],
        "states": states,
        "mean": _over(session, states, lambda row: row["mean_return"]),
        "difference": _over(session, states, lambda row: row["difference"]),
        "left_out": sum(row["difference"] is None for row in states),
    }
    return page | (_one_state(stored, answer, states[0]) if session.round.intervention.state_id else {}), reports


def _with_error(row: Row) -> Row:
    """Return the row with the standard error of the intervention's mean return in place of its spread."""
    error = None if row["spread"] is None else row["spread"] / sqrt(row["replay_count"])
    return {**{name: value for name, value in row.items() if name != "spread"}, "standard_error": error}


def _over(session: Session, states: Sequence[Row], figure: Callable[[Row], float | None]) -> Page | None:
    """Return the mean of a figure over states that have it, with its 95% interval (bootstrap over problems)."""
    known = [(value, row["problem_id"]) for row in states if (value := figure(row)) is not None]
    if not known:
        return None
    values, problems = zip(*known, strict=True)
    rng = np.random.default_rng(seed_from("what-if", session.round.config.seed, session.round.ref.round))
    found = mean_over_groups(values, problems, rng)
    return {"value": found.value, "low": found.low, "high": found.high, "states": len(known)}


def _one_state(stored: Sequence[Artifact], answer: Sequence[Artifact], row: Row) -> Page:
    replays = endings(answer, row["intervention_id"])
    rewards = [replay["reward"] for replay in replays if replay["reward"] is not None]
    interval = interval_of_draws(rewards)
    return {
        "alternatives": alternatives(stored, row["state_id"]),
        "replays": [{name: value for name, value in replay.items() if name != "decision_id"} for replay in replays],
        "interval": None if interval is None else {"low": interval[0], "high": interval[1]},
    }


def message_of(message: str | None, file: Path | None) -> str | None:
    """Return the message that a command line gives, itself or in a file. ConfigError when it gives both or no text."""
    if file is None:
        return message
    if message is not None:
        raise ConfigError("c3 what-if: one of --message and --message-file")
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--message-file {file}: cannot be read as UTF-8 text ({error})") from None
