"""Print what `c3 verify`, `c3 doctor` and `c3 gc` found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from pipeline.commands.gc import Unreferenced
from pipeline.commands.verify import Verification

if TYPE_CHECKING:
    from pipeline.commands.doctor import Checked


def show_findings(console: Console, verification: Verification) -> None:
    """Print what verification found: what is wrong and its cure, then how many artifacts were checked."""
    for finding in verification.findings:
        console.print(f"[bold]{finding.place}[/bold]: {finding.problem}\n  {finding.cure}", soft_wrap=True)
    console.print(f"{verification.artifacts} artifacts checked, {len(verification.findings)} with something wrong")


def show_checks(console: Console, found: Iterable[Checked]) -> bool:
    """Print a line per thing looked at, as it is found; return whether all is good."""
    good = True
    for checked in found:
        mark = "[green]ok [/]" if checked.good else "[red]bad[/]"
        console.print(f"{mark}  {escape(checked.what)}: {escape(checked.said)}", soft_wrap=True)
        good = good and checked.good
    return good


def show_garbage(console: Console, found: Sequence[Unreferenced], deleted: bool) -> None:
    """Print what nothing refers to. `deleted`: it was to be removed, not only listed."""
    for entry in found:
        fate = {None: "unused", True: "removed", False: "kept: a live writer holds it"}[entry.removed]
        kind = "" if entry.finished else ", unfinished"
        console.print(f"{entry.stage:<11}{entry.key[:16]}  {entry.bytes / 1e6:9.2f} MB{kind}  {fate}")
    counted = [entry for entry in found if entry.removed is not False]
    megabytes = sum(entry.bytes for entry in counted) / 1e6
    if not found:
        console.print("nothing to remove: everything is referred to")
    elif deleted:
        console.print(f"{len(counted)} artifacts removed, {megabytes:.2f} MB freed")
    else:
        console.print(f"{len(counted)} artifacts, {megabytes:.2f} MB; `c3 gc --yes` removes them")
