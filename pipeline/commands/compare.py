"""`c3 compare`: what each estimator would have made of a round's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.commands.session import Session
from pipeline.rounds.stored import stored_artifacts
from pipeline.steps import ABLATED_REPLAYS, step_named
from stages.training.examples import UNDEFINED, build_examples
from store.artifacts.artifact import Artifact, Row
from store.disk.ids import seed_from
from store.queries.comparison import compare_estimators, credit_of_all


@dataclass(frozen=True)
class RoundComparison:
    """Hold how the estimators differ on one round. The tables are those of store.queries.comparison.Comparison."""

    run: str
    round: int
    variant: str
    by_estimator: Sequence[Row]
    by_pair: Sequence[Row]
    fidelity: Sequence[Row]
    absent: Sequence[str]
    gradients: Sequence[Row] | None
    """As `compare_gradients` returns them; None: not requested."""


def compare(session: Session, gradients: bool = False) -> RoundComparison:
    """Compare all estimators over what the round has stored. Nothing is generated, nothing stored.

    `gradients`: also load the policy and compare the gradients that each would make.
    """
    artifacts, ablated = _compared(session)
    found = compare_estimators(artifacts, session.round.config.advantages.group_by, ablated)
    return RoundComparison(
        **session.round.label,
        by_estimator=found.by_estimator,
        by_pair=found.by_pair,
        fidelity=found.fidelity,
        absent=found.absent,
        gradients=compare_gradients(session) if gradients else None,
    )


def _compared(session: Session) -> tuple[list[Artifact], list[Artifact]]:
    """Return the round's artifacts, and its replays without a message where it has any."""
    artifacts = stored_artifacts(session.resolver, also=["critic"])
    there = session.resolver.resolve_steps().artifacts
    ablated = [there[step.name] for step in ABLATED_REPLAYS if step.name in there]
    return artifacts, ablated if len(ablated) == len(ABLATED_REPLAYS) else []


def compare_gradients(session: Session) -> list[Row]:
    """Return the cosine of the policy gradients of each two estimators, per role and (role None) for the whole team.

    Rows: role, estimator, other, cosine (None: a gradient is 0; 1: an estimator with itself) and length (the L2 norm of
    the estimator's gradient). At the policy that sampled the round, over the messages that its update may learn from.
    The policy is loaded and differentiated; nothing is generated, nothing stored.
    """
    from stages.training.gradient_geometry import Geometry, gradient_geometry  # torch

    artifacts, ablated = _compared(session)
    credit = credit_of_all(artifacts, session.round.config.advantages.group_by, ablated)
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


def as_json(found: RoundComparison) -> dict[str, Any]:
    """Return a comparison as plain data for JSON; gradients only where they were requested."""
    page = asdict(found)
    if found.gradients is None:
        del page["gradients"]
    return page
