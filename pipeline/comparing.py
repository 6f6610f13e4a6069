"""`c3 compare`: what each estimator would have made of a round's samples."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.samples import stored_samples
from pipeline.scope import Scope
from store.artifacts import Row
from store.comparison import Comparison, compare_estimators


def compare(scope: Scope) -> Comparison:
    """All estimators over what the round has stored; nothing is generated."""
    return compare_estimators(stored_samples(scope), scope.config.advantages.group_by)


def as_json(scope: Scope, found: Comparison) -> dict[str, Any]:
    """The same as plain data."""
    return {"run": scope.run, "round": scope.round, "variant": scope.variant, **asdict(found)}


def show_comparison(console: Console, scope: Scope, found: Comparison) -> None:
    """Three tables that fit 80 columns."""
    console.print(f"[bold]run {scope.run}, round {scope.round}[/bold]: every estimator on the same samples")
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
    console.print("\nagreement: share of equal signs / correlation")
    for role in dict.fromkeys(row["role"] for row in found.by_pair):
        _pairs(console, role, [row for row in found.by_pair if row["role"] == role])
    if not found.fidelity:
        console.print("\nno fidelity: no alternative has two independent replays to tell it from")
        return
    console.print("\nfidelity: half of the replays against c3 on the other, independent half")
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
    cells = {(row["estimator"], row["other"]): row for row in rows}
    lines = []
    for name in names[1:]:
        line = [name]
        for other in names[:-1]:
            row = cells.get((other, name))
            line.append("" if row is None else f"{row['sign_agreement']:.2f}/{_short(row['correlation'])}")
        lines.append(tuple(line))
    _table(console, (role, *names[:-1]), lines)


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
    return "NULL" if value is None else f"{value:+.4f}"


def _short(value: float | None) -> str:
    return "NULL" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "NULL" if value is None else f"{value:.0%}"
