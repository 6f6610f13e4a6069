"""`c3 run`: look at what is there, and run the flow only for what is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from configs.errors import ConfigError, StoreError
from pipeline.commands.session import Session
from pipeline.execution.runner import StepReport, reused_report
from pipeline.flows.server import server_url, use_server
from pipeline.rounds.recording import record_result, record_retry
from pipeline.rounds.state import RoundState
from pipeline.steps import ABLATED_REPLAYS, DIAGNOSIS, EVALUATION, INTERVENTIONS, ORDER, StepList, step_named
from pipeline.trackers.report import log_evaluation, log_round
from stages.grade import GRADE
from stages.learners.identity import check_processes
from stages.update import UPDATE
from store.artifacts.artifact import Artifact, Row
from store.disk.locks import exclusive_lock
from store.queries.connection import warm_up
from store.queries.summaries import round_summary, summary_content
from store.runs.records import RoundRecord, RoundRef, RoundSummary, edit_round
from store.runs.staleness import PolicyStaleness, RunStaleness

if TYPE_CHECKING:
    from pipeline.flows.round_flows import RoundFlows


@dataclass(frozen=True)
class LaterStale:
    """Rounds after one that were made from a policy which it no longer ends with."""

    ref: RoundRef
    """The round that they come after."""
    rounds: Sequence[PolicyStaleness]
    unknown: str | None = None
    """Why that cannot be told; None: it can."""


@dataclass(frozen=True)
class RoundResult:
    """A finished round: what became of each step, and its figures."""

    run: str
    round: int
    reports: Sequence[StepReport]
    figures: Row | None
    """Schema of round_summary.sql; None when the round stopped before its rewards."""
    signal: Sequence[Row]
    """Schema of signal_summary.sql."""
    unlogged: Sequence[str] = ()
    """A line for each tracker that could not be told of it."""
    stale: LaterStale | None = None
    """Later rounds that were made from a policy which this round no longer ends with."""


@dataclass(frozen=True)
class EvaluationResult:
    """Greedy accuracy of the policy a round ended with."""

    run: str
    round: int
    problems: int
    accuracy: float
    truncated: int
    unscored: int
    reused: bool
    artifact: Artifact
    """Its evaluations table: an answer per problem."""
    half_interval: float
    """Half the width of the accuracy's 95% interval."""
    unlogged: Sequence[str] = ()
    """A line for each tracker that could not be told of it."""


def request_draw_set(session: Session, draw_set: int | None) -> None:
    """Ask the round for another set of draws from now on; None leaves it as it was."""
    if draw_set is not None:
        with edit_round(session.round.layout, session.round.ref) as record:
            record.draw_set = draw_set
        session.resolver.reload()


def request_retry(session: Session, step: str = "grade") -> bool:
    """Ask for the missing rewards of a step to be graded again. False when there are rewards and none is missing.

    Where the step has not been made yet, or a retry of it was stopped half-way, there is nothing to ask: it goes on.
    """
    if step_named(step).stage is not GRADE:
        raise ConfigError(
            f"--retry-unscored: {step} gives no rewards; it goes with grade (or answer_grade, of an evaluation)"
        )
    ref, line = session.round.ref, session.resolver.line(step)
    if line.variant != ref.variant:
        raise ConfigError(
            f"--retry-unscored: variant '{ref.variant}' takes its {step} of round {ref.round} from '{line.variant}'; retry it "
            f"there: c3 run stage {step} --run {ref.run} --round {ref.round} --variant {line.variant} --retry-unscored"
        )
    resolver = session.resolver
    state = resolver.resolve_steps(resolver.list_with(step)).of(step)
    if state is None or state.artifact is None:
        return True
    if all(row["error"] is None for row in state.artifact.rows("rewards", ["error"])):
        return False
    record_retry(resolver, state)
    return True


def has_work(session: Session, until: str = "update") -> bool:
    """Return whether something of the round, up to this step, is still to be made."""
    return not session.resolver.resolve_steps(_steps_until(session, until)).complete


def run_iteration(session: Session, until: str = "update", rerun_from: str | None = None) -> RoundResult:
    """Run one round, from whatever of it is there."""
    steps = _steps_until(session, until)
    if rerun_from is not None:
        _check_step(session, rerun_from, "--from")
    reports, artifacts = _run(session, steps, "iteration", {"until": until, "rerun_from": rerun_from})
    figures, signal = _summary(session, artifacts)
    unlogged = log_round(session.round, artifacts, figures, signal)
    return RoundResult(
        session.round.ref.run, session.round.ref.round, reports, figures, signal, unlogged, later_stale(session)
    )


def run_evaluation(session: Session) -> EvaluationResult:
    """Answer held-out problems greedily with the policy that the round ended with."""
    reports, artifacts = _run(session, EVALUATION, "evaluation")
    rows = artifacts["evaluate"].rows("evaluations", ["reward", "truncated"])
    scored = [row["reward"] for row in rows if row["reward"] is not None]
    accuracy = sum(scored) / len(scored) if scored else float("nan")
    truncated, unscored = sum(row["truncated"] for row in rows), len(rows) - len(scored)
    return EvaluationResult(
        session.round.ref.run,
        session.round.ref.round,
        len(rows),
        accuracy,
        truncated,
        unscored,
        all(report.reused for report in reports),
        artifacts["evaluate"],
        1.96 * (accuracy * (1 - accuracy) / max(len(scored), 1)) ** 0.5,
        log_evaluation(session.round, artifacts["evaluate"], accuracy, truncated, unscored),
    )


def run_diagnosis(session: Session) -> tuple[Sequence[StepReport], Artifact]:
    """Measure what the round's credit is worth; return the receipt, and the artifact that holds the figures."""
    reports, artifacts = _run(session, DIAGNOSIS, "diagnosis")
    return reports, artifacts["diagnose"]


def run_intervention(session: Session) -> tuple[Sequence[StepReport], list[Artifact]]:
    """Find out what the round's intervention led to; return the receipt, and the artifacts of its steps."""
    assert session.round.intervention is not None
    question = asdict(session.round.intervention)
    reports, artifacts = _run(session, INTERVENTIONS, "intervention", {"question": question})
    return reports, [artifacts[name] for name in INTERVENTIONS.names]


def run_stage(session: Session, stage: str) -> tuple[Sequence[StepReport], Sequence[str]]:
    """Run one step; the steps before it must have run. With it a line for each tracker that could not be told of it."""
    check_stage(stage)
    resolver = session.resolver
    resolver.artifacts_before(stage)
    with _serving(session) as flows:
        reports: Sequence[StepReport] = flows.start(flows.single_stage, **_parameters(session), stage=stage)
    resolver.reload()
    if stage != UPDATE.name:
        return reports, ()
    artifacts = resolver.resolve_steps().artifacts
    return reports, log_round(session.round, artifacts, *_summary(session, artifacts))


def check_stage(stage: str) -> None:
    """Raise ConfigError naming the stages there are, when this is none of them."""
    if stage not in ORDER:
        raise ConfigError(f"c3 run stage {stage}: no such stage; there is {', '.join(ORDER)}")


def later_stale(session: Session) -> LaterStale:
    """Return later rounds that were made from a policy which this round no longer ends with."""
    ref = session.round.ref
    try:
        return LaterStale(ref, RunStaleness(session.round.layout, ref.run).later_stale(ref))
    except StoreError as error:  # another round's record is corrupt: this one is finished all the same
        return LaterStale(ref, (), str(error))


def _steps_until(session: Session, until: str) -> StepList:
    _check_step(session, until, "--until")
    return session.resolver.steps.until(until)


def _check_step(session: Session, name: str, option: str) -> None:
    names = session.resolver.steps.names
    if name not in names:
        raise ConfigError(f"{option} {name}: no such stage; there is {', '.join(names)}")


def _run(
    session: Session, steps: StepList, flow: str, parameters: dict[str, Any] | None = None
) -> tuple[Sequence[StepReport], dict[str, Artifact]]:
    """Run the flow of that name; if everything is there and no server is configured, only update the record."""
    resolver, parameters = session.resolver, parameters or {}
    state = resolver.resolve_steps(steps)
    if state.complete and not parameters.get("rerun_from") and server_url(session.round.layout) is None:
        for found in state.steps:
            record_result(resolver, found.step, state.artifacts[found.step.name])
        return [reused_report(found) for found in state.steps], state.artifacts
    if any(step.stage.weights for step in steps):
        resolver.policy_of(steps)  # no such model, or a round before that has not run: said before a server starts
    if any(step.stage.weights == "trains" for step in steps):
        check_processes(session.round.config)
    if _generates(state):
        session.context.load_ahead(session.round.config)
    with _serving(session) as flows:
        reports = flows.start(getattr(flows, flow), **_parameters(session), **parameters)
    resolver.reload()
    return reports, resolver.resolve_steps(steps).artifacts


def _generates(state: RoundState) -> bool:
    """Return whether a step that is still to be made asks an engine for messages."""
    if any(step.stage.weights == "samples" for step in state.unknown):
        return True
    return any(
        found.artifact is None and found.step.stage.weights == "samples" and found.step.stage.messages(found.job) > 0
        for found in state.steps
    )


@contextmanager
def _serving(session: Session) -> Iterator[RoundFlows]:
    """Yield the round's flows, connected to a server, while no other command runs this round."""
    layout, ref = session.round.layout, session.round.ref
    name = f"run-{ref.run}-{ref.variant}-{ref.round}"
    with exclusive_lock(layout, name, f"round {ref.round} of run '{ref.run}'"):
        await_server = use_server(layout)
        from pipeline.flows.round_flows import (
            RoundFlows,
            connect,
        )  # Prefect takes two seconds to import: only when needed

        warm_up()
        await_server()
        connect()
        yield RoundFlows(session.context)


def _parameters(session: Session) -> dict[str, Any]:
    return {**session.round.label, "store": str(session.round.layout.root)}


def _summary(session: Session, artifacts: dict[str, Artifact]) -> tuple[Row | None, Sequence[Row]]:
    """Return the round's figures: as recorded where they are of these very rows, so that a finished round needs no query."""
    if "grade" not in artifacts:
        return None, []
    # the evaluations of a round are those of its plan: what is earned without a message is no part of its mean reward
    summed = [artifact for name, artifact in artifacts.items() if name not in ABLATED_REPLAYS.names]
    content, layout, ref = summary_content(summed), session.round.layout, session.round.ref
    recorded = RoundRecord.load(layout, ref).summary
    if recorded is None or recorded.content != content:
        figures, signal = round_summary(summed)
        recorded = RoundSummary(content, figures, signal)
        with suppress(StoreError), edit_round(layout, ref) as record:  # it only saves the next command a query
            record.summary = recorded
    return recorded.figures, recorded.signal
