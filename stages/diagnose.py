"""Diagnose: what a round's credit is worth, as figures with their intervals (docs/method.md, section 6).

Reads transcripts, decisions, replays, rewards and advantages, and the independent replays with their rewards where they
were requested; writes diagnostics (a figure). Generates nothing.
"""

from __future__ import annotations

from typing import Any

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.parts import one_part
from stages.base.resources import Resources
from stages.base.stage import Stage
from stages.diagnostics.figure import Figure
from store.artifacts.artifact import Row, StageOutput

INDEPENDENT_STEPS = ("independent_replay", "independent_grade")
"""The steps that hold the independent replays and their rewards."""

_QUANTILES = ("smallest", "p05", "p25", "median", "p75", "p95", "largest")


def _slice(job: Job) -> dict[str, Any]:
    return {"seed": job.config.seed, "roles": [role.name for role in job.roles]}


def _make(part: Part, job: Job, resources: Resources) -> StageOutput:
    from stages.diagnostics.groups import groups_of
    from stages.diagnostics.metrics import RoleGroups, role_figures  # brings scipy, which takes a second to import
    from store.queries.diagnostics import diagnosed_rows
    from store.queries.estimators import estimator

    own = [artifact for name, artifact in job.inputs.items() if name not in INDEPENDENT_STEPS]
    found = diagnosed_rows(own, [job.inputs[name] for name in INDEPENDENT_STEPS])
    groups = groups_of(found["alternatives"], found["units"])
    lawful = all(
        estimator(row["estimator"]).noise_law and (row["normalisation"], row["group_id"]) == ("none", row["state_id"])
        for row in found["alternatives"]
    )
    figures: list[Figure] = []
    for row in found["distribution"]:
        is_last = row["depth"] == job.tree.depth
        of_role = RoleGroups(row["role"], groups.get(row["role"], []), is_last, lawful, job.config.seed)
        figures += [*role_figures(of_role), *_distribution(row)]
    return StageOutput({"diagnostics": [figure.row() for figure in figures]})


def _distribution(row: Row) -> list[Figure]:
    """Return how a role's advantages are distributed, as figures without interval: a description, no inference."""
    shapes: dict[str, tuple[float | None, int]] = {"advantage_undefined": (row["undefined"], row["alternatives"])}
    quantiles = row["quantiles"] or [None] * len(_QUANTILES)
    values = {"zero": row["zero"], "mean": row["mean"], "spread": row["spread"]}
    values |= dict(zip(_QUANTILES, quantiles, strict=True))
    shapes |= {f"advantage_{name}": (value, row["defined"]) for name, value in values.items()}
    return [
        Figure(
            name,
            row["role"],
            count=count,
            left_out=row["alternatives"] - count,
            problems=row["problems"],
            value=value,
            samples="round" if value is not None else None,
            reason="every advantage is undefined" if value is None else None,
        )
        for name, (value, count) in shapes.items()
    ]


DIAGNOSE = Stage("diagnose", 1, ("diagnostics",), _slice, one_part, _make)
