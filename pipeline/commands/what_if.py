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
from stages.intervention import asked_for
from store.artifacts.artifact import Artifact, Row
from store.disk.ids import seed_from
from store.queries.what_if import alternatives, endings, interventions, named_states

Page = dict[str, Any]
"""run, round, variant, what was asked and what it cost; `states`, a row per intervention, and over them `mean` and `difference`.

Of a single state its alternatives and the intervention's replays too. None where it cannot be told: nothing scored, a standard error
of one replay, an interval over one problem.
"""

_NEEDED = ("problems", "rollout", "freeze", "sample", "replay", "grade", "advantages")


def ask(
    session: Session, name: str | None, role: str | None, message: str | None, empty: bool, replays: int
) -> Session:
    """The session, asked what a command line asks. ConfigError unless that is one message at one state or role."""
    if (name is None) == (role is None):
        raise ConfigError(
            "c3 what-if: say where: the ID of a state or of a decision there, or --role NAME for every state of a role"
        )
    if (message is None) == (not empty):
        raise ConfigError("c3 what-if: say what: one of --message TEXT, --message-file FILE and --empty")
    samples = stored_artifacts(session.resolver, _NEEDED)
    if name is None:
        known = [known.name for known in session.round.config.roles]
        if role not in known:
            raise ConfigError(f"c3 what-if --role {role}: no such role; there is {', '.join(known)}")
        return _asking(session, Intervention(message or "", replays, role=role))
    found = named_states(samples, name)
    if not found:
        raise ConfigError(
            f"c3 what-if {name}: no frozen state of round {session.round.ref.round} of run '{session.round.ref.run}' has that id, nor has a "
            f'decision at one; `c3 sql "SELECT state_id, role FROM contexts"` lists them'
        )
    return _asking(session, Intervention(message or "", replays, state_id=found[0]["state_id"]))


def _asking(session: Session, intervention: Intervention) -> Session:
    return Session(replace(session.round, intervention=intervention), session.context)


def cost(session: Session) -> tuple[dict[str, int], bool]:
    """What the question costs, and whether that is spent already."""
    look = session.resolver.resolve(INTERVENTIONS.steps[0], session.resolver.inputs_of(INTERVENTIONS))
    assert isinstance(look.job, InterventionJob)
    return asked_for(look.job), look.artifact is not None


def what_if(session: Session) -> tuple[Page, Sequence[StepReport]]:
    """Put the message there, continue and grade it (or find that done), and set it beside the alternatives."""
    assert session.round.intervention is not None
    price, _ = cost(session)
    reports, answer = run_intervention(session)
    samples = stored_artifacts(session.resolver, _NEEDED)
    states = [_with_error(row) for row in interventions(samples, answer)]
    page: Page = {
        **session.round.label,
        "asked": asdict(session.round.intervention),
        "cost": price,
        "role": states[0]["role"],
        "text": states[0]["text"],
        "states": states,
        "mean": _over(session, states, lambda row: row["mean_return"]),
        "difference": _over(session, states, lambda row: row["difference"]),
        "left_out": sum(row["difference"] is None for row in states),
    }
    return page | (_one_state(samples, answer, states[0]) if session.round.intervention.state_id else {}), reports


def _with_error(row: Row) -> Row:
    """The row with the standard error of the intervention's mean return in place of its spread."""
    error = None if row["spread"] is None else row["spread"] / sqrt(row["replay_count"])
    return {**{name: value for name, value in row.items() if name != "spread"}, "standard_error": error}


def _over(session: Session, states: Sequence[Row], figure: Callable[[Row], float | None]) -> Page | None:
    """The mean of a figure over states that have it, with its 95% interval (bootstrap over problems)."""
    told = [(value, row["problem_id"]) for row in states if (value := figure(row)) is not None]
    if not told:
        return None
    values, problems = zip(*told, strict=True)
    rng = np.random.default_rng(seed_from("what-if", session.round.config.seed, session.round.ref.round))
    found = mean_over_groups(values, problems, rng)
    return {"value": found.value, "low": found.low, "high": found.high, "states": len(told)}


def _one_state(samples: Sequence[Artifact], answer: Sequence[Artifact], row: Row) -> Page:
    replays = endings(answer, row["intervention_id"])
    rewards = [replay["reward"] for replay in replays if replay["reward"] is not None]
    interval = interval_of_draws(rewards)
    return {
        "alternatives": alternatives(samples, row["state_id"]),
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
