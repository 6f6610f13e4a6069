"""Print `c3 compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.rounds.round import Round
from store.artifacts.artifact import Row
from store.disk.layout import MAIN
from store.queries.comparison import Comparison


def show_gradients(console: Console, rows: Sequence[Row]) -> None:
    """Print a table of cosines per role and for the team."""
    console.print("\ngradients at the policy that sampled: cosine of each two, and length")
    for role in dict.fromkeys(row["role"] for row in rows):
        mine = [row for row in rows if row["role"] == role]
        names = list(dict.fromkeys(row["estimator"] for row in mine))
        cosine = {(row["estimator"], row["other"]): row["cosine"] for row in mine}
        length = {row["estimator"]: row["length"] for row in mine}
        lines = []
        for place, name in enumerate(names):
            cells = [_short(cosine[name, other]) for other in names[:place]]
            lines.append((name, f"{length[name]:.3g}", *cells, *[""] * (len(names) - 1 - len(cells))))
        # columns are numbered like the rows, so that ten estimators fit 80 columns
        numbered = [(f"{place} {line[0]}", *line[1:]) for place, line in enumerate(lines, start=1)]
        _table(console, (role or "the team", "length", *map(str, range(1, len(names)))), numbered)


def show_comparison(console: Console, round: Round, found: Comparison) -> None:
    """Print three tables that fit 80 columns."""
    variant = "" if round.ref.variant == MAIN else f", {round.ref.variant}"
    console.print(f"[bold]run {round.ref.run}, round {round.ref.round}{variant}[/bold]: estimators on the same samples")
    if found.absent:
        console.print(f"not among them, because the round has no stage for what they read: {', '.join(found.absent)}")
    _table(
        console,
        ("role", "estimator", "alternatives", "undefined", "zero", "mean", "variance"),
        [
            (
                row["role"],
                row["estimator"],
                row["alternatives"],
                row["undefined"],
                _share(row["zero_share"]),
                _signed(row["mean"]),
                _number(row["variance"]),
            )
            for row in found.by_estimator
        ],
    )
    console.print("\nagreement: share of equal signs below the diagonal, correlation above it")
    for role in dict.fromkeys(row["role"] for row in found.by_pair):
        _pairs(console, role, [row for row in found.by_pair if row["role"] == role])
    if not found.fidelity:
        console.print("\nno fidelity: no alternative has two independent replays to measure it by")
        return
    console.print("\nfidelity: half of the replays against c3 on the other, independent half (not of the last role)")
    _table(
        console,
        ("role", "estimator", "groups", "rank in group", "rank, all", "RMSE"),
        [
            (
                row["role"],
                row["estimator"],
                row["groups"],
                _signed(row["spearman"]),
                _signed(row["pooled_spearman"]),
                _number(row["rmse"]),
            )
            for row in found.fidelity
        ],
    )


def _pairs(console: Console, role: str, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in (row["estimator"], row["other"])))
    pairs = {(row["estimator"], row["other"]): row for row in rows}

    def cell(name: str, other: str) -> str:
        if (name, other) in pairs:
            return _short(pairs[name, other]["correlation"])
        return f"{pairs[other, name]['sign_agreement']:.2f}" if (other, name) in pairs else ""

    # columns are numbered like the rows, so that ten estimators fit 80 columns
    lines = [(f"{place} {name}", *(cell(name, other) for other in names)) for place, name in enumerate(names, start=1)]
    _table(console, (role, *map(str, range(1, len(names) + 1))), lines)


def _table(console: Console, headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 or heading == "estimator" else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def _number(value: float | None) -> str:
    return "NULL" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "NULL" if value is None else f"{value:+.4f}" if round(value, 4) else "0"


def _short(value: float | None) -> str:
    return "NULL" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "NULL" if value is None else f"{value:.0%}"
