"""Print `c3 diagnose`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.formatting import LEVEL, fixed, share
from store.artifacts.artifact import Row

_DISTRIBUTION = "advantage_"
_VARIANCES = "variance"
_ENOUGH_PROBLEMS = 60
"""From so many on the intervals of variances hold as often as they say: docs/results-credit.md."""


def show_figures(console: Console, rows: Sequence[Row]) -> None:
    """Print the figures of a diagnosis: a table per role that fits 80 columns. `rows`: of the diagnostics table."""
    console.print(
        "\nbound: none shows better, the target being noisy; nothing: one that says nothing\n"
        "p: how often one that says nothing shows as much, by permutation; of: groups",
        style="dim",
    )
    few = [row["problems"] for row in rows if row["name"].startswith(_VARIANCES) and row["low"] is not None]
    if few and min(few) < _ENOUGH_PROBLEMS:
        console.print(
            f"note: with fewer than some {_ENOUGH_PROBLEMS} problems (here {min(few)}) a variance's interval is too\n"
            f"short: it may hold the truth 80% of the time, not {LEVEL}",
            style="yellow",
        )
    for role in dict.fromkeys(row["role"] for row in rows):
        _show_role(console, role, [row for row in rows if row["role"] == role])


def _show_role(console: Console, role: str, rows: Sequence[Row]) -> None:
    shown = [row for row in rows if row["value"] is not None and not row["name"].startswith(_DISTRIBUTION)]
    console.print(f"\n[bold]{role}[/bold]")
    if shown:
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in ("figure", "value", f"{LEVEL} interval", "bound", "nothing", "p", "of"):
            table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=True)
        for row in shown:
            interval = "" if row["low"] is None else f"{fixed(row['low'], 3)} to {fixed(row['high'], 3)}"
            numbers = (fixed(row[name], 3, unknown="") for name in ("bound", "null_value", "null_p"))
            table.add_row(row["name"], fixed(row["value"], 3), interval, *numbers, str(row["count"]))
        console.print(table)
    for reason in dict.fromkeys(row["reason"] for row in rows if row["reason"]):
        names = ", ".join(row["name"] for row in rows if row["reason"] == reason)
        console.print(f"NULL, {reason}: {names}")
    spread = {
        row["name"].removeprefix(_DISTRIBUTION): row["value"] for row in rows if row["name"].startswith(_DISTRIBUTION)
    }
    order = ("smallest", "p05", "p25", "median", "p75", "p95", "largest")
    if spread.get("mean") is not None:
        console.print(
            f"advantages: mean {spread['mean']:+.3f}, spread {spread['spread']:.3f}, {share(spread['zero'])} zero, "
            f"{share(spread['undefined'])} undefined\n"
            f"  from smallest to largest (5, 25, 50, 75, 95%): {', '.join(f'{spread[name]:+.2f}' for name in order)}"
        )
