"""Print `c3 compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.commands.compare import RoundComparison
from pipeline.formatting import fixed, share, signed_fixed
from store.artifacts.artifact import Row
from store.disk.layout import MAIN


def show_comparison(console: Console, found: RoundComparison) -> None:
    """Print the tables of a comparison; each fits 80 columns."""
    variant = "" if found.variant == MAIN else f", {found.variant}"
    console.print(f"[bold]run {found.run}, round {found.round}{variant}[/bold]: estimators on the same samples")
    if found.absent:
        console.print(f"not among them, because the round has no stage for what they read: {', '.join(found.absent)}")
    _show_estimators(console, found.by_estimator)
    console.print("\nagreement: share of equal signs below the diagonal, correlation above it")
    for role in dict.fromkeys(row["role"] for row in found.by_pair):
        _show_pairs(console, role, [row for row in found.by_pair if row["role"] == role])
    if found.fidelity:
        _show_fidelity(console, found.fidelity)
    else:
        console.print("\nno fidelity: no alternative has two independent replays to tell it from")
    if found.gradients is not None:
        _show_gradients(console, found.gradients)


def _show_estimators(console: Console, rows: Sequence[Row]) -> None:
    _table(
        console,
        ("role", "estimator", "alternatives", "undefined", "zero", "mean", "variance"),
        [
            (
                row["role"],
                row["estimator"],
                row["alternatives"],
                row["undefined"],
                share(row["zero_share"]),
                signed_fixed(row["mean"], 4),
                fixed(row["variance"], 4),
            )
            for row in rows
        ],
    )


def _show_pairs(console: Console, role: str, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in (row["estimator"], row["other"])))
    pairs = {(row["estimator"], row["other"]): row for row in rows}

    def cell(name: str, other: str) -> str:
        if (name, other) in pairs:
            return fixed(pairs[name, other]["correlation"], 2)
        return fixed(pairs[other, name]["sign_agreement"], 2) if (other, name) in pairs else ""

    # columns are numbered like the rows, so that ten estimators fit 80 columns
    lines = [(f"{place} {name}", *(cell(name, other) for other in names)) for place, name in enumerate(names, start=1)]
    _table(console, (role, *map(str, range(1, len(names) + 1))), lines)


def _show_fidelity(console: Console, rows: Sequence[Row]) -> None:
    console.print("\nfidelity: half of the replays against c3 on the other, independent half (not of the last role)")
    _table(
        console,
        ("role", "estimator", "groups", "rank in group", "rank, all", "RMSE"),
        [
            (
                row["role"],
                row["estimator"],
                row["groups"],
                signed_fixed(row["spearman"], 4),
                signed_fixed(row["pooled_spearman"], 4),
                fixed(row["rmse"], 4),
            )
            for row in rows
        ],
    )


def _show_gradients(console: Console, rows: Sequence[Row]) -> None:
    """Print a table of cosines per role, and for the team."""
    console.print("\ngradients at the policy that sampled: cosine of each two, and length")
    for role in dict.fromkeys(row["role"] for row in rows):
        mine = [row for row in rows if row["role"] == role]
        names = list(dict.fromkeys(row["estimator"] for row in mine))
        cosine = {(row["estimator"], row["other"]): row["cosine"] for row in mine}
        length = {row["estimator"]: row["length"] for row in mine}
        lines = []
        for place, name in enumerate(names):
            cells = [fixed(cosine[name, other], 2) for other in names[:place]]
            lines.append((name, f"{length[name]:.3g}", *cells, *[""] * (len(names) - 1 - len(cells))))
        # columns are numbered like the rows, so that ten estimators fit 80 columns
        numbered = [(f"{place} {line[0]}", *line[1:]) for place, line in enumerate(lines, start=1)]
        _table(console, (role or "the team", "length", *map(str, range(1, len(names)))), numbered)


def _table(console: Console, headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 or heading == "estimator" else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)
