"""What a person sees in the terminal: tables that fit 80 columns, and progress bars."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from configs.errors import StoreError
from configs.notes import config_notes
from configs.schema import Config
from pipeline.commands import EvaluationResult, RoundResult
from pipeline.costs import RoundCost
from pipeline.runner import StepReport
from pipeline.standing import Standing
from pipeline.verify import Finding
from store.catalog import Reference
from store.collect import Garbage
from store.descent import Descents
from store.layout import MAIN
from store.summaries import accuracy_change

if TYPE_CHECKING:
    from pipeline.doctor import Checked
    from pipeline.scope import Scope

_SHOW_AFTER_SECONDS = 2.0
_STEP_HEADINGS = {
    "rollout": "roll",
    "freeze": "frz",
    "sample": "samp",
    "replay": "repl",
    "grade": "grade",
    "solo": "solo",
    "solo_grade": "sgrd",
    "critic": "crit",
    "advantages": "adv",
    "update": "upd",
    "evaluate": "eval",
    "remeasure": "meas",
    "regrade": "regr",
    "diagnose": "diag",
}
_NOT_IN_EVERY_ROUND = ("solo", "solo_grade", "critic", "remeasure", "regrade")
"""Have a column where a round in sight has them: 80 columns hold the others."""
_MARKS = {
    "made": "ok",
    "reused": "reuse",
    "stale": "stale",
    "partial": "part",
    "running": "runs",
    "failed": "FAILED",
    "damaged": "BROKEN",
    "missing": ".",
}


class RateColumn(ProgressColumn):
    """Finished units per second."""

    def render(self, task: Task) -> Text:
        """The rate, empty until there is one."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class Bars:
    """A progress bar per step that takes longer than two seconds: done, rate, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._started = 0.0
        self._step = ""
        self._total = 0
        self._done = 0

    def start(self, step: str, total: int) -> None:
        """A step begins."""
        self._started, self._step, self._total, self._done = time.monotonic(), step, total, 0

    def advance(self, count: int) -> None:
        """So many more messages (or rows) are done."""
        self._done += count
        if self._bar is None:
            if time.monotonic() - self._started < _SHOW_AFTER_SECONDS or not self._console.is_terminal:
                return
            self._bar = Progress(
                TextColumn("{task.description:>10}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(self._step, total=self._total or None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._done)

    def finish(self) -> None:
        """The step is over."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_round(console: Console, result: RoundResult) -> None:
    """The table of one finished round."""
    console.print(_headline(result))
    show_steps(console, result.reports)
    show_untold(console, result.untold)
    console.print()


def show_untold(console: Console, lines: Sequence[str]) -> None:
    """Trackers that could not be told: nothing is lost, and nothing was stopped by it."""
    for line in lines:
        console.print(f"note: {line}", style="yellow", markup=False, soft_wrap=True)


def show_stale(console: Console, scope: Scope) -> None:
    """Which later rounds were made from a policy that the run no longer holds, in one line; nothing when there are none."""
    try:
        stale = Descents(scope.layout, scope.run).later_stale(scope.variant, scope.round)
    except StoreError as error:  # another round's record is damaged: this one is finished all the same
        console.print(f"note: whether later rounds are stale cannot be told: {error}", markup=False, soft_wrap=True)
        return
    if not stale:
        return
    named = ", ".join(
        str(entry.round) if entry.variant == scope.variant else f"{entry.round} of {entry.variant}" for entry in stale
    )
    last = {entry.variant: entry.round for entry in sorted(stale, key=lambda entry: entry.round)}
    commands = " and ".join(
        f"`c3 run training --run {scope.run}{'' if name == MAIN else f' --variant {name}'} --rounds {round}`"
        for name, round in last.items()
    )
    console.print(
        f"stale now, made from a policy that the run no longer holds: round {named}; "
        f"{commands} {'makes' if len(last) == 1 else 'make'} them again",
        style="yellow",
        markup=False,
        soft_wrap=True,
    )


def show_steps(console: Console, reports: Sequence[StepReport]) -> None:
    """The receipt: per step what was made and what was reused."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("step", "made", "reused", "messages", "tokens", "evals", "seconds"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for report in reports:
        ledger = report.ledger
        # an evaluation is spent where the evaluator runs
        evaluations = ledger.get("evaluations", 0) if report.stage == "grade" else 0
        table.add_row(
            report.name,
            str(report.parts_made),
            str(report.parts_reused),
            _count(ledger.get("messages", 0)),
            _count(ledger.get("prompt_tokens", 0) + ledger.get("new_tokens", 0)),
            _count(evaluations),
            _outcome(report),
        )
    console.print(table)
    for line in (line for report in reports for line in report.damage):
        console.print(f"made again: {line}", soft_wrap=True)
    for line in (retrying(report) for report in reports):
        if line:
            console.print(line)
    saved = saving(reports)
    if saved:
        console.print(saved)


def retrying(report: StepReport) -> str:
    """What a retry of missing rewards came to, in one line; empty when there was none."""
    retried, now_scored = (report.ledger.get(name, 0) + report.saved.get(name, 0) for name in ("retried", "now_scored"))
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
    """What reuse saved, in one line; empty when nothing was reused."""
    tokens = sum(report.saved.get("new_tokens", 0) + report.saved.get("prompt_tokens", 0) for report in reports)
    seconds = sum(report.saved_seconds for report in reports)
    parts = sum(report.parts_reused for report in reports)
    if not parts:
        return ""
    return (
        f"reused {parts} part{'' if parts == 1 else 's'}: {_count(tokens)} tokens and {seconds:.1f} s not spent again"
    )


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
        spent = [ledger for report in result.reports for ledger in (report.ledger, report.saved)]
        table.add_row(
            str(result.round),
            f"{result.figures['mean_reward']:.3f}",
            f"{result.figures['reward_spread']:.3f}",
            f"{silent / groups:.0%}" if groups else "-",
            _count(sum(ledger.get("messages", 0) for ledger in spent)),
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


def show_cost(console: Console, cost: RoundCost) -> None:
    """What a round will cost."""
    table = Table(box=None, pad_edge=False)
    for heading in ("role", "alternatives x replays", "messages", "tokens at most"):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for role in cost.roles:
        table.add_row(role.role, role.groups, _count(role.messages), _count(role.tokens_at_most))
    console.print(
        f"[bold]round {cost.round}[/bold]: {cost.problems} problems, "
        f"{cost.evaluations - cost.solo_evaluations} terminal evaluations ({cost.budget_per_problem} a problem), "
        f"{_count(cost.messages)} messages, {_count(cost.tokens_at_most)} new tokens at most"
    )
    console.print(table)
    if cost.solo_evaluations:
        console.print(
            f"{cost.solo_evaluations} evaluations more, of replays without a message, on top of the plan's budget (ccpo)"
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


def show_notes(console: Console, config: Config) -> None:
    """What the configuration means that its reader may not expect."""
    for note in config_notes(config):
        console.print(f"note: {note}", style="yellow")


def show_plan_steps(console: Console, rows: Sequence[tuple[str, str, str]]) -> None:
    """Per step: what will happen to it and why."""
    table = Table(box=None, pad_edge=False)
    for heading in ("step", "will be", "because"):
        table.add_column(heading)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def show_status(console: Console, standings: Sequence[Standing]) -> None:
    """Rounds by steps."""
    if not standings:
        console.print("no runs yet; `c3 run training --config arithmetic-duo --run demo --rounds 10` makes one")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    used = {name for entry in standings for name in entry["states"]}
    shown = [name for name in _STEP_HEADINGS if name not in _NOT_IN_EVERY_ROUND or name in used]
    for heading in ("run", "variant", "round", *(_STEP_HEADINGS[name] for name in shown)):
        table.add_column(heading, justify="right" if heading == "round" else "left")
    for entry in standings:
        marks = (_MARKS[entry["states"][name]] if name in entry["states"] else "" for name in shown)
        table.add_row(entry["run"], entry["variant"], str(entry["round"]), *marks)
    console.print(table)
    for note in (note for entry in standings for note in entry["notes"]):
        console.print(note, soft_wrap=True)


def show_findings(console: Console, results: Sequence[tuple[Reference | None, Finding | None]]) -> bool:
    """What verification found; True when all is well."""
    findings = list(dict.fromkeys(finding for _, finding in results if finding is not None))
    for finding in findings:
        console.print(f"[bold]{finding.place}[/bold]: {finding.problem}\n  {finding.cure}", soft_wrap=True)
    artifacts = len({(reference.stage, reference.key) for reference, _ in results if reference is not None})
    console.print(f"{artifacts} artifacts checked, {len(findings)} with something wrong")
    return not findings


def show_checks(console: Console, found: Iterable[Checked]) -> bool:
    """A line per thing looked at, as it is found. Whether all is good."""
    good = True
    for checked in found:
        mark = "[green]ok [/]" if checked.good else "[red]bad[/]"
        console.print(f"{mark}  {escape(checked.what)}: {escape(checked.said)}", soft_wrap=True)
        good = good and checked.good
    return good


def show_garbage(console: Console, found: Sequence[Garbage], removed: Sequence[bool] | None) -> None:
    """What nothing refers to, and what became of it."""
    for index, entry in enumerate(found):
        fate = "unused" if removed is None else "removed" if removed[index] else "kept: a live writer holds it"
        kind = "" if entry.finished else ", unfinished"
        console.print(f"{entry.stage:<11}{entry.key[:16]}  {entry.bytes / 1e6:9.2f} MB{kind}  {fate}")
    total = sum(entry.bytes for index, entry in enumerate(found) if removed is None or removed[index])
    if removed is None and found:
        console.print(f"{len(found)} artifacts, {total / 1e6:.2f} MB; `c3 gc --yes` removes them")
    elif found:
        console.print(f"{sum(removed or [])} artifacts removed, {total / 1e6:.2f} MB freed")
    else:
        console.print("nothing to remove: everything is referred to")


def show_rows(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A query's result."""
    table = Table(box=None, pad_edge=False)
    numeric = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(columns))]
    for name, is_number in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print(table)
    console.print(f"({len(rows)} row{'' if len(rows) == 1 else 's'})", style="dim")


def _cell(value: Any) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.6g}")
    return Text(str(value))


def _count(number: int) -> str:
    return f"{number:,}"
