"""Print a training's summary and its evaluations."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipeline.commands.run import EvaluationResult, RoundResult
from pipeline.views.receipt import _count, show_untold
from store.queries.summaries import accuracy_change


def show_training(console: Console, rounds: Sequence[RoundResult], evaluations: Sequence[EvaluationResult]) -> None:
    """One line per round: how the reward went."""
    table = Table(title="training", title_justify="left", box=None, pad_edge=False)
    for heading in ("round", "reward", "spread", "no signal", "messages", "evals", "seconds"):
        table.add_column(heading, justify="right")
    for result in rounds:
        if result.figures is None:
            continue
        groups = sum(row["groups"] for row in result.signal)
        silent = sum(row["groups_without_signal"] for row in result.signal)
        # now or earlier, as the evaluations are
        spent = [usage for report in result.reports for usage in (report.usage, report.saved)]
        table.add_row(
            str(result.round),
            f"{result.figures['mean_reward']:.3f}",
            f"{result.figures['reward_spread']:.3f}",
            f"{silent / groups:.0%}" if groups else "-",
            _count(sum(usage.get("messages", 0) for usage in spent)),
            _count(result.figures["evaluations"]),
            f"{sum(report.seconds for report in result.reports):.1f}",
        )
    console.print(table)
    for evaluation in evaluations:
        show_evaluation(console, evaluation)
    if len(evaluations) > 1:
        change = accuracy_change(evaluations[0].artifact, evaluations[-1].artifact)
        low, high = change["change"] - change["half_interval"], change["change"] + change["half_interval"]
        console.print(
            f"change: {change['change']:+.3f}, 95% interval {low:+.3f} to {high:+.3f} "
            f"(paired over {change['problems']} problems)"
        )


def show_evaluation(console: Console, result: EvaluationResult) -> None:
    """Greedy accuracy, with its 95% interval and what was cut off."""
    half = 1.96 * (result.accuracy * (1 - result.accuracy) / max(result.problems - result.unscored, 1)) ** 0.5
    when = "untrained" if result.round == 0 else f"after round {result.round}"
    text = f"greedy accuracy {when}: {result.accuracy:.3f} +- {half:.3f} on {result.problems} held-out problems"
    notes = [f"{result.truncated} truncated"] if result.truncated else []
    notes += [f"{result.unscored} unscored"] if result.unscored else []
    console.print(text + (f" ({', '.join(notes)})" if notes else ""))
    show_untold(console, result.untold)
