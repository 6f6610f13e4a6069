"""Print `c3 diagnose`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.commands.diagnose import figures_of
from store.artifacts.artifact import Artifact, Row

_DISTRIBUTION = "advantage_"


_VARIANCES = "variance"


_ENOUGH_PROBLEMS = 60
"""From so many on the intervals of variances hold as often as they say: docs/results-credit.md."""


def show_diagnosis(console: Console, artifact: Artifact) -> None:
    """The figures of a diagnosis."""
    show_figures(console, figures_of(artifact))


def show_figures(console: Console, rows: Sequence[Row]) -> None:
    """A table per role that fits 80 columns."""
    console.print(
        "\nbound: none shows better, the target being noisy; nothing: one that says nothing\n"
        "p: how often one that says nothing shows as much, by permutation; of: groups",
        style="dim",
    )
    few = [row["problems"] for row in rows if row["name"].startswith(_VARIANCES) and row["low"] is not None]
    if few and min(few) < _ENOUGH_PROBLEMS:
        console.print(
            f"note: with fewer than some {_ENOUGH_PROBLEMS} problems (here {min(few)}) a variance's interval is too\n"
            "short: it may hold the truth 80% of the time, not 95%",
            style="yellow",
        )
    for role in dict.fromkeys(row["role"] for row in rows):
        _show_role(console, role, [row for row in rows if row["role"] == role])


def _show_role(console: Console, role: str, rows: Sequence[Row]) -> None:
    told = [row for row in rows if row["value"] is not None and not row["name"].startswith(_DISTRIBUTION)]
    console.print(f"\n[bold]{role}[/bold]")
    if told:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in ("figure", "value", "95% interval", "bound", "nothing", "p", "of"):
            table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
        for row in told:
            interval = "" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
            numbers = (_number(row[name]) for name in ("bound", "null_value", "null_p"))
            table.add_row(row["name"], _number(row["value"]), interval, *numbers, str(row["count"]))
        console.print(table)
    for reason in dict.fromkeys(row["reason"] for row in rows if row["reason"]):
        names = ", ".join(row["name"] for row in rows if row["reason"] == reason)
        console.print(f"NULL, {reason}: {names}")
    spread = {
        row["name"].removeprefix(_DISTRIBUTION): row["value"] for row in rows if row["name"].startswith(_DISTRIBUTION)
    }
    shown = ("smallest", "p05", "p25", "median", "p75", "p95", "largest")
    if spread.get("mean") is not None:
        console.print(
            f"advantages: mean {spread['mean']:+.3f}, spread {spread['spread']:.3f}, {spread['zero']:.0%} zero, "
            f"{spread['undefined']:.0%} undefined\n"
            f"  from smallest to largest (5, 25, 50, 75, 95%): {', '.join(f'{spread[name]:+.2f}' for name in shown)}"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
