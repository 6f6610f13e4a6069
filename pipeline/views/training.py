"""Print a training's summary and its evaluations."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipeline.commands.run import EvaluationResult, RoundResult
from pipeline.commands.training import TrainingResult
from pipeline.formatting import LEVEL, counted, share, thousands
from pipeline.views.receipt import show_round, show_unlogged
from store.artifacts.artifact import Row


def show_result(console: Console, result: RoundResult | EvaluationResult) -> None:
    """Print a round or an evaluation as soon as it is done."""
    if isinstance(result, RoundResult):
        show_round(console, result)
    else:
        show_evaluation(console, result)


def show_training(console: Console, training: TrainingResult) -> None:
    """Print one line per round, the evaluations, and how accuracy changed."""
    table = Table(title="training", title_justify="left", box=None, pad_edge=False)
    for heading in ("round", "reward", "spread", "no signal", "messages", "evals", "seconds"):
        table.add_column(heading, justify="right")
    for result in training.rounds:
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
            share(silent / groups) if groups else "-",
            thousands(sum(usage.get("messages", 0) for usage in spent)),
            thousands(result.figures["evaluations"]),
            f"{sum(report.seconds for report in result.reports):.1f}",
        )
    console.print(table)
    for evaluation in training.evaluations:
        show_evaluation(console, evaluation)
    if training.change is not None:
        console.print(_change_line(training.change))


def _change_line(change: Row) -> str:
    """Return how accuracy changed. The change is None where no problem was scored twice, its interval with fewer than two."""
    over = f"(paired over {counted(change['problems'], 'problem')})"
    if change["change"] is None:
        return f"change: NULL {over}"
    if change["half_interval"] is None:
        return f"change: {change['change']:+.3f}, no interval {over}"
    low, high = change["change"] - change["half_interval"], change["change"] + change["half_interval"]
    return f"change: {change['change']:+.3f}, {LEVEL} interval {low:+.3f} to {high:+.3f} {over}"


def show_evaluation(console: Console, result: EvaluationResult) -> None:
    """Print greedy accuracy with half the width of its interval, and how many answers were cut off or not scored."""
    when = "untrained" if result.round == 0 else f"after round {result.round}"
    text = f"greedy accuracy {when}: {result.accuracy:.3f} +- {result.half_interval:.3f} on {result.problems} held-out problems"
    notes = [f"{result.truncated} truncated"] if result.truncated else []
    notes += [f"{result.unscored} unscored"] if result.unscored else []
    console.print(text + (f" ({', '.join(notes)})" if notes else ""))
    show_unlogged(console, result.unlogged)
