"""`c3 compare`: what each estimator would have made of a round's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.samples import stored_samples
from pipeline.scope import Scope
from pipeline.steps import SOLO_REPLAYS, step_named
from pipeline.workbench import workbench
from stages.lessons import UNDEFINED, collect
from store.artifacts import Artifact, Row
from store.comparison import Comparison, compare_estimators, credit_of_all
from store.credit import estimators
from store.identity import seed_from
from store.layout import MAIN


def compare(scope: Scope) -> Comparison:
    """All estimators over what the round has stored; nothing is generated."""
    samples, solo = _compared(scope)
    return compare_estimators(samples, scope.config.advantages.group_by, solo)


def _compared(scope: Scope) -> tuple[list[Artifact], list[Artifact]]:
    """The round's samples, and its replays without a message where it has any."""
    samples = stored_samples(scope, also=["critic"])
    there = scope.walk().artifacts
    solo = [there[step.name] for step in SOLO_REPLAYS if step.name in there]
    return samples, solo if len(solo) == len(SOLO_REPLAYS) else []


def compare_gradients(scope: Scope) -> list[Row]:
    """Role (None: the whole team), estimator, other, and the cosine of their policy gradients; an estimator with itself: 1.

    At the policy that sampled the round, over the messages that its update may learn from. None where a gradient is 0.
    `length`: of the estimator's gradient. The policy is loaded and differentiated; nothing is generated, nothing stored.
    """
    from stages.training_gradients import Geometry, gradient_geometry  # torch

    samples, solo = _compared(scope)
    credit = credit_of_all(samples, scope.config.advantages.group_by, solo)
    job = scope.look(step_named("update"), scope.artifacts_before("update")).job
    lessons = [lesson for lesson in collect(job) if lesson.skipped in (None, UNDEFINED) and lesson.row.context_ids]
    learner = workbench().ready().learner(scope.config)
    learner.load(scope.policy, seed_from("adapter", scope.config.seed))
    learner.prepare([lesson.row for lesson in lessons])
    if scope.config.update.undefined_advantage == "zero":
        credit = {name: {key: value or 0.0 for key, value in of.items()} for name, of in credit.items()}
    by_role, team = gradient_geometry(scope.config, learner, lessons, credit)
    geometries: dict[str | None, Geometry] = {role: geometry for role, geometry in by_role.items()}  # noqa: C416 (dict() would not widen the keys)
    if len(by_role) > 1:
        geometries[None] = team
    return [
        {
            "role": role,
            "estimator": name,
            "other": other,
            "cosine": geometry.cosine(name, other),
            "length": geometry.length(name),
        }
        for role, geometry in geometries.items()
        for place, name in enumerate(geometry.estimators)
        for other in geometry.estimators[: place + 1]
    ]


def as_json(scope: Scope, found: Comparison, gradients: Sequence[Row] | None = None) -> dict[str, Any]:
    """The same as plain data; gradients where they were asked for."""
    page = {"run": scope.run, "round": scope.round, "variant": scope.variant, **asdict(found)}
    return page if gradients is None else {**page, "gradients": list(gradients)}


def show_gradients(console: Console, rows: Sequence[Row]) -> None:
    """A table of cosines per role and for the team."""
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


def show_comparison(console: Console, scope: Scope, found: Comparison) -> None:
    """Three tables that fit 80 columns."""
    variant = "" if scope.variant == MAIN else f", {scope.variant}"
    console.print(f"[bold]run {scope.run}, round {scope.round}{variant}[/bold]: estimators on the same samples")
    absent = [name for name in estimators() if name not in {row["estimator"] for row in found.by_estimator}]
    if absent:
        console.print(f"not among them, because the round has no stage for what they read: {', '.join(absent)}")
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
        console.print("\nno fidelity: no alternative has two independent replays to tell it from")
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
