"""Print `c3 plan`: cost, overlap, warnings and steps."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.formatting import thousands
from pipeline.rounds.cost import RoundCost


def show_cost(console: Console, cost: RoundCost) -> None:
    """Print what a round will cost, in all and per role."""
    table = Table(box=None, pad_edge=False)
    for heading in ("role", "alternatives x replays", "messages", "tokens at most"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for role in cost.roles:
        table.add_row(role.role, role.groups, thousands(role.messages), thousands(role.tokens_at_most))
    console.print(
        f"[bold]round {cost.round}[/bold]: {cost.problems} problems, "
        f"{cost.evaluations - cost.ablated_evaluations} terminal evaluations ({cost.budget_per_problem} a problem), "
        f"{thousands(cost.messages)} messages, {thousands(cost.tokens_at_most)} new tokens at most"
    )
    console.print(table)
    if cost.ablated_evaluations:
        console.print(
            f"{cost.ablated_evaluations} evaluations more, of replays without a message, on top of the plan's budget"
        )
    if cost.uncredited:
        console.print(f"no credit this round (one draw per state): {', '.join(cost.uncredited)}")


def show_overlap(console: Console, found: tuple[int, int] | None) -> None:
    """Print how many held-out problems are trained on: an accuracy on those says nothing. None: nothing is held out."""
    if found is None:
        return
    shared, heldout = found
    if shared:
        console.print(f"[bold]{shared} of {heldout} held-out problems are also trained on[/bold] (equal text)")
    else:
        console.print(f"none of the {heldout} held-out problems is trained on")


def show_warnings(console: Console, warnings: Sequence[str]) -> None:
    """Print what a configuration means that its reader may not expect."""
    for warning in warnings:
        console.print(f"note: {warning}", style="yellow")


def show_plan_steps(console: Console, rows: Sequence[tuple[str, str, str]]) -> None:
    """Print what will happen to each step, and why."""
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "will be", "because"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)
