"""`c3 compare`: what each estimator would have made of a round's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.commands.session import Session
from pipeline.rounds.stored import stored_artifacts
from pipeline.steps import ABLATED_REPLAYS, step_named
from stages.training.examples import UNDEFINED, build_examples
from store.artifacts.artifact import Artifact, Row
from store.disk.ids import seed_from
from store.queries.comparison import Comparison, compare_estimators, credit_of_all


def compare(session: Session) -> Comparison:
    """Compare all estimators over what the round has stored; nothing is generated."""
    stored, ablated = _compared(session)
    return compare_estimators(stored, session.round.config.advantages.group_by, ablated)


def _compared(session: Session) -> tuple[list[Artifact], list[Artifact]]:
    """Return the round's stored artifacts, and its replays without a message where it has any."""
    stored = stored_artifacts(session.resolver, also=["critic"])
    there = session.resolver.resolve_steps().artifacts
    ablated = [there[step.name] for step in ABLATED_REPLAYS if step.name in there]
    return stored, ablated if len(ablated) == len(ABLATED_REPLAYS) else []


def compare_gradients(session: Session) -> list[Row]:
    """Return rows of role (None: the whole team), estimator, other, and the cosine of their policy gradients.

    An estimator with itself has cosine 1. At the policy that sampled the round, over the messages that its update may
    learn from. None where a gradient is 0. `length`: of the estimator's gradient. The policy is loaded and
    differentiated; nothing is generated, nothing stored.
    """
    from stages.training.gradient_geometry import Geometry, gradient_geometry  # torch

    stored, ablated = _compared(session)
    credit = credit_of_all(stored, session.round.config.advantages.group_by, ablated)
    job = session.resolver.resolve(step_named("update"), session.resolver.artifacts_before("update")).job
    examples = [
        example for example in build_examples(job) if example.skipped in (None, UNDEFINED) and example.row.context_ids
    ]
    learner = session.context.ready().learner(session.round.config)
    learner.load(session.resolver.policy_before, seed_from("adapter", session.round.config.seed))
    learner.prepare([example.row for example in examples])
    if session.round.config.update.undefined_advantage == "zero":
        credit = {name: {key: value or 0.0 for key, value in of.items()} for name, of in credit.items()}
    by_role, team = gradient_geometry(session.round.config, learner, examples, credit)
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


def as_json(session: Session, found: Comparison, gradients: Sequence[Row] | None = None) -> dict[str, Any]:
    """Return the comparison as plain data; with gradients where they are given."""
    page = {
        "run": session.round.ref.run,
        "round": session.round.ref.round,
        "variant": session.round.ref.variant,
        **asdict(found),
    }
    return page if gradients is None else {**page, "gradients": list(gradients)}
