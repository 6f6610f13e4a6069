"""Print what `c3 verify`, `c3 doctor` and `c3 gc` found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from pipeline.commands.verify import Finding
from store.runs.garbage import Garbage
from store.runs.records import Reference

if TYPE_CHECKING:
    from pipeline.commands.doctor import Checked


def show_findings(console: Console, results: Sequence[tuple[Reference | None, Finding | None]]) -> bool:
    """Print what verification found; return True when all is well."""
    findings = list(dict.fromkeys(finding for _, finding in results if finding is not None))
    for finding in findings:
        console.print(f"[bold]{finding.place}[/bold]: {finding.problem}\n  {finding.cure}", soft_wrap=True)
    artifacts = len({(reference.stage, reference.key) for reference, _ in results if reference is not None})
    console.print(f"{artifacts} artifacts checked, {len(findings)} with something wrong")
    return not findings


def show_checks(console: Console, found: Iterable[Checked]) -> bool:
    """Print a line per thing looked at, as it is found; return whether all is good."""
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
