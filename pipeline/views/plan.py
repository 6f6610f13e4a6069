"""Print `c3 plan`: cost, overlap, warnings and steps."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.rounds.cost import RoundCost
from pipeline.views.receipt import _count


def show_cost(console: Console, cost: RoundCost) -> None:
    """What a round will cost."""
    table = Table(box=None, pad_edge=False)
    for heading in ("role", "alternatives x replays", "messages", "tokens at most"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for role in cost.roles:
        table.add_row(role.role, role.groups, _count(role.messages), _count(role.tokens_at_most))
    console.print(
        f"[bold]round {cost.round}[/bold]: {cost.problems} problems, "
        f"{cost.evaluations - cost.ablated_evaluations} terminal evaluations ({cost.budget_per_problem} a problem), "
        f"{_count(cost.messages)} messages, {_count(cost.tokens_at_most)} new tokens at most"
    )
    console.print(table)
    if cost.ablated_evaluations:
        console.print(
            f"{cost.ablated_evaluations} evaluations more, of replays without a message, on top of the plan's budget"
        )
    if cost.uncredited:
        console.print(f"no credit this round (one draw per state): {', '.join(cost.uncredited)}")


def show_overlap(console: Console, found: tuple[int, int] | None) -> None:
    """How many held-out problems are trained on: an accuracy on those says nothing."""
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
    """Per step: what will happen to it and why."""
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "will be", "because"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)
