"""Print the receipt of a round or a step: what was made, what was reused and what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.commands.run import RoundResult
from pipeline.execution.runner import StepReport
from pipeline.formatting import counted, thousands


def show_round(console: Console, result: RoundResult) -> None:
    """Print the headline and the receipt of one finished round."""
    console.print(_headline(result))
    show_steps(console, result.reports)
    show_unlogged(console, result.unlogged)
    console.print()


def show_unlogged(console: Console, lines: Sequence[str]) -> None:
    """Print which trackers could not be reached: nothing is lost, and nothing was stopped by it."""
    for line in lines:
        console.print(f"note: {line}", style="yellow", markup=False, soft_wrap=True)


def show_steps(console: Console, reports: Sequence[StepReport]) -> None:
    """Print a row per step: the parts made and reused, and what was spent on them."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("step", "made", "reused", "messages", "tokens", "evals", "seconds"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for report in reports:
        usage = report.usage
        # an evaluation is spent where the evaluator runs
        evaluations = usage.get("evaluations", 0) if report.stage == "grade" else 0
        table.add_row(
            report.name,
            str(report.parts_made),
            str(report.parts_reused),
            thousands(usage.get("messages", 0)),
            thousands(usage.get("prompt_tokens", 0) + usage.get("new_tokens", 0)),
            thousands(evaluations),
            _outcome(report),
        )
    console.print(table)
    for line in (line for report in reports for line in report.corruption):
        console.print(f"made again: {line}", soft_wrap=True)
    for line in (retrying(report) for report in reports):
        if line:
            console.print(line)
    saved = saving(reports)
    if saved:
        console.print(saved)


def retrying(report: StepReport) -> str:
    """Return what a retry of missing rewards came to, in one line; empty when there was none."""
    retried, now_scored = (report.usage.get(name, 0) + report.saved.get(name, 0) for name in ("retried", "now_scored"))
    if report.reused or not retried:
        return ""
    return (
        f"{report.name}: {retried} missing rewards graded again; {now_scored} of them are there now, "
        f"{retried - now_scored} are still missing"
    )


def _headline(result: RoundResult) -> str:
    text = f"[bold]run {result.run}, round {result.round}[/bold]"
    if result.figures is None or result.figures["mean_reward"] is None:
        return text
    figures = result.figures
    text += f"  reward {figures['mean_reward']:.3f} (spread {figures['reward_spread']:.3f})"
    if figures["unscored"]:
        text += f", {figures['unscored']} unscored (--retry-unscored grades them again)"
    tied = [f"{row['role']} {row['groups_without_signal']}/{row['groups']}" for row in result.signal if row["groups"]]
    if tied:
        text += f"\ngroups whose returns tie: {', '.join(tied)}"
    return text


def _outcome(report: StepReport) -> str:
    if report.reused:
        return "reused"
    text = f"{report.seconds:.1f}"
    if report.rows_equal is not None:
        text += " equal" if report.rows_equal else " DIFFERS"
    return text


def saving(reports: Sequence[StepReport]) -> str:
    """Return what reuse saved, in one line; empty when nothing was reused."""
    tokens = sum(report.saved.get("new_tokens", 0) + report.saved.get("prompt_tokens", 0) for report in reports)
    seconds = sum(report.saved_seconds for report in reports)
    parts = sum(report.parts_reused for report in reports)
    if not parts:
        return ""
    return f"reused {counted(parts, 'part')}: {thousands(tokens)} tokens and {seconds:.1f} s not spent again"
