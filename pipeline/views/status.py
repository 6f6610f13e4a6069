"""Print `c3 status`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.commands.run import LaterStale
from pipeline.rounds.status import RoundStatus
from store.disk.layout import MAIN

_STEP_HEADINGS = {
    "rollout": "roll",
    "freeze": "frz",
    "sample": "samp",
    "replay": "repl",
    "grade": "grade",
    "ablated_replay": "abl",
    "ablated_grade": "ablgr",
    "critic": "crit",
    "advantages": "adv",
    "update": "upd",
    "evaluate": "eval",
    "independent_replay": "indep",
    "independent_grade": "indgr",
    "diagnose": "diag",
}


_NOT_IN_EVERY_ROUND = ("ablated_replay", "ablated_grade", "critic", "independent_replay", "independent_grade")
"""Have a column where a round in sight has them: 80 columns hold the others."""


_MARKS = {
    "made": "ok",
    "reused": "reuse",
    "stale": "stale",
    "partial": "part",
    "running": "runs",
    "failed": "FAILED",
    "corrupt": "BROKEN",
    "missing": ".",
}


def show_stale(console: Console, stale: LaterStale | None) -> None:
    """Print in one line which later rounds were made from a policy that the run no longer holds; nothing without any."""
    if stale is None or not (stale.rounds or stale.unknown):
        return
    if stale.unknown:
        text = f"note: whether later rounds are stale is unknown: {stale.unknown}"
        console.print(text, markup=False, soft_wrap=True)
        return
    run, variant = stale.ref.run, stale.ref.variant
    named = ", ".join(
        str(entry.round) if entry.variant == variant else f"{entry.round} of {entry.variant}" for entry in stale.rounds
    )
    last = {entry.variant: entry.round for entry in sorted(stale.rounds, key=lambda entry: entry.round)}
    commands = " and ".join(
        f"`c3 run training --run {run}{'' if name == MAIN else f' --variant {name}'} --rounds {round}`"
        for name, round in last.items()
    )
    console.print(
        f"stale now, made from a policy that the run no longer holds: round {named}; "
        f"{commands} {'makes' if len(last) == 1 else 'make'} them again",
        style="yellow",
        markup=False,
        soft_wrap=True,
    )


def show_status(console: Console, statuses: Sequence[RoundStatus]) -> None:
    """Print rounds by steps."""
    if not statuses:
        console.print("no runs yet; `c3 run training --config arithmetic-duo --run demo --rounds 10` makes one")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    used = {name for entry in statuses for name in entry.states}
    shown = [name for name in _STEP_HEADINGS if name not in _NOT_IN_EVERY_ROUND or name in used]
    for heading in ("run", "variant", "round", *(_STEP_HEADINGS[name] for name in shown)):
        table.add_column(heading, justify="right" if heading == "round" else "left")
    for entry in statuses:
        marks = (_MARKS[entry.states[name]] if name in entry.states else "" for name in shown)
        table.add_row(entry.run, entry.variant, str(entry.round), *marks)
    console.print(table)
    for note in (note for entry in statuses for note in entry.notes):
        console.print(note, soft_wrap=True)
