"""What the commands do: record the configuration, look what is there, and run the flow only for what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from configs.errors import ConfigError, StoreError
from configs.load import build_config
from pipeline.execution.context import Progress, workbench
from pipeline.execution.limits import Limits
from pipeline.execution.runner import StepReport, reused
from pipeline.flows.server import server_url, use_server
from pipeline.rounds.plan import first_changed, wanted_config
from pipeline.rounds.round import Scope
from pipeline.rounds.state import Walk
from pipeline.steps import (
    ABLATED_REPLAYS,
    DIAGNOSIS,
    EVALUATION,
    EVERYTHING,
    INTERVENTION_STEPS,
    Step,
    names,
    step_named,
)
from pipeline.trackers.report import check_trackers, tell_evaluation, tell_round
from stages.grade import GRADE
from stages.learners.identity import check_processes
from stages.update import UPDATE
from store.artifacts.artifact import Artifact, Row
from store.artifacts.policy_version import PolicyVersion
from store.disk.layout import MAIN
from store.disk.locks import exclusive_lock
from store.queries.connection import warm_up
from store.queries.summaries import round_summary, summary_content
from store.runs.records import RoundRecord, RoundSummary, edit_round, record_config
from store.runs.variants import Variant, find_variant, record_variant


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
    untold: Sequence[str] = ()
    """A line for each tracker that could not be told of it."""


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
    untold: Sequence[str] = ()
    """A line for each tracker that could not be told of it."""


def settle_config(scope: Scope, source: str | None, overrides: Sequence[str], stage: str | None = None) -> None:
    """Record what holds from this round on: for the main line a configuration, for a variant its branch."""
    if scope.variant == MAIN:
        config = wanted_config(scope, source, overrides)
        check_trackers(config)
        record_config(scope.layout, scope.run, scope.round, config.model_dump(mode="json"))
    else:
        _settle_variant(scope, source, overrides, stage)


def settle_redraw(scope: Scope, draw_set: int | None) -> None:
    """Ask the round for another set of draws from now on; None leaves it as it was."""
    if draw_set is not None and RoundRecord.load(scope.layout, scope.ref).draw_set != draw_set:
        with edit_round(scope.layout, scope.ref) as record:
            record.draw_set = draw_set


def settle_retry(scope: Scope, step: str = "grade") -> bool:
    """Ask for the missing rewards of a step to be graded again. False when there are rewards and none is missing.

    Where the step has not been made yet, or a retry of it was stopped half-way, there is nothing to ask: it goes on.
    """
    if step_named(step).stage is not GRADE:
        raise ConfigError(
            f"--retry-unscored: {step} gives no rewards; it goes with grade (or answer_grade, of an evaluation)"
        )
    if scope.line(step) != scope.variant:
        raise ConfigError(
            f"--retry-unscored: variant '{scope.variant}' takes its {step} of round {scope.round} from "
            f"'{scope.line(step)}'; retry it there: c3 run stage {step} --run {scope.run} --round {scope.round} "
            f"--variant {scope.line(step)} --retry-unscored"
        )
    look = next((look for look in _walk(scope, scope.steps_with(step)).looks if look.step.name == step), None)
    if look is None or look.artifact is None:
        return True
    if all(row["error"] is None for row in look.artifact.rows("rewards", ["error"])):
        return False
    scope.record_retry(look)
    return True


def limit(max_seconds: float | None, max_evaluations: int | None) -> None:
    """Caps for this command."""
    workbench().limits = Limits(max_seconds, max_evaluations)


def employ(scope: Scope, count: int | None) -> None:
    """Who makes parts side by side: as configured, or so many as the command asks for."""
    configured = scope.config.workers
    workbench().workers = configured if count is None else configured.model_copy(update={"count": count})


def _settle_variant(scope: Scope, source: str | None, overrides: Sequence[str], stage: str | None) -> None:
    """Branch off, or go on with, a variant. ConfigError when its name stands for something else."""
    if source is not None:
        raise ConfigError(f"--variant {scope.variant}: a variant overrides its run with --set; --config is for the run")
    found = find_variant(scope.layout, scope.run, scope.variant)
    if found is not None and (not overrides or tuple(overrides) == found.overrides):
        return
    parent = Scope(scope.store, scope.run, scope.round)
    config = build_config(parent.config.model_dump(mode="json"), overrides, where=f"variant '{scope.variant}'")
    check_trackers(config)
    changed = first_changed(parent, config)
    order = names(EVERYTHING)
    if stage is not None and changed is not None and order.index(changed) < order.index(stage):
        raise ConfigError(
            f"--variant {scope.variant}: {' '.join(overrides)} already changes {changed}, which comes before {stage}; "
            f"branch there: c3 run stage {changed} --round {scope.round} --variant {scope.variant} ..."
        )
    branch = Variant(MAIN, scope.round, stage or changed or names()[-1], tuple(overrides))
    record_variant(scope.layout, scope.run, scope.variant, branch)


def has_work(scope: Scope, until: str = "update") -> bool:
    """Whether something of the round, up to this step, is still to be made."""
    return not _walk(scope, _steps_until(scope, until)).complete


def run_iteration(
    scope: Scope, progress: Progress, until: str = "update", rerun_from: str | None = None
) -> RoundResult:
    """One round, from whatever of it is there."""
    steps = _steps_until(scope, until)
    reports, artifacts = _run(
        scope,
        steps,
        progress,
        lambda flows: flows.started(flows.iteration, **_parameters(scope), until=until, rerun_from=rerun_from),
        rerun_from,
    )
    figures, signal = _summary(scope, artifacts)
    untold = tell_round(scope, artifacts, figures, signal)
    return RoundResult(scope.run, scope.round, reports, figures, signal, untold)


def known_stage(stage: str) -> None:
    """ConfigError naming the stages there are, when this is none of them."""
    known = names(EVERYTHING)
    if stage not in known:
        raise ConfigError(f"c3 run stage {stage}: no such stage; there is {', '.join(known)}")


def _steps_until(scope: Scope, until: str) -> tuple[Step, ...]:
    _known_step(scope, until, "--until")
    return scope.steps[: names(scope.steps).index(until) + 1]


def _known_step(scope: Scope, name: str, option: str) -> None:
    if name not in names(scope.steps):
        raise ConfigError(f"{option} {name}: no such stage; there is {', '.join(names(scope.steps))}")


def run_evaluation(scope: Scope, progress: Progress) -> EvaluationResult:
    """Greedy answers of the policy that the round ended with."""
    reports, artifacts = _run(
        scope, EVALUATION, progress, lambda flows: flows.started(flows.evaluation, **_parameters(scope))
    )
    rows = artifacts["evaluate"].rows("evaluations", ["reward", "truncated"])
    scored = [row["reward"] for row in rows if row["reward"] is not None]
    accuracy = sum(scored) / len(scored) if scored else float("nan")
    truncated, unscored = sum(row["truncated"] for row in rows), len(rows) - len(scored)
    return EvaluationResult(
        scope.run,
        scope.round,
        len(rows),
        accuracy,
        truncated,
        unscored,
        all(report.reused for report in reports),
        artifacts["evaluate"],
        tell_evaluation(scope, artifacts["evaluate"], accuracy, truncated, unscored),
    )


def run_diagnosis(scope: Scope, progress: Progress) -> tuple[Sequence[StepReport], Artifact]:
    """What the round's credit is worth: the receipt, and the artifact that holds the figures."""
    reports, artifacts = _run(
        scope, DIAGNOSIS, progress, lambda flows: flows.started(flows.diagnosis, **_parameters(scope))
    )
    return reports, artifacts["diagnose"]


def run_intervention(scope: Scope, progress: Progress) -> tuple[Sequence[StepReport], list[Artifact]]:
    """What the scope's intervention led to: the receipt, and the artifacts of its steps."""
    assert scope.intervention is not None
    question = asdict(scope.intervention)
    reports, artifacts = _run(
        scope,
        INTERVENTION_STEPS,
        progress,
        lambda flows: flows.started(flows.intervention, **_parameters(scope), question=question),
    )
    return reports, [artifacts[name] for name in names(INTERVENTION_STEPS)]


def evaluates(scope: Scope, last: int) -> bool:
    """Whether training evaluates after this round: first and last always, and every so many by configuration."""
    config = scope.config.evaluate
    if config.problems is None:
        return False
    return scope.round in (0, last) or bool(config.every and scope.round % config.every == 0)


def run_stage(scope: Scope, stage: str, progress: Progress) -> tuple[Sequence[StepReport], Sequence[str]]:
    """One step; the steps before it must have run. With it a line for each tracker that could not be told of the update."""
    known_stage(stage)
    steps = scope.steps_with(stage)
    scope.artifacts_before(stage, steps, scope.policy_after if steps is EVALUATION else None)
    with _serving(scope, progress) as flows:
        reports: Sequence[StepReport] = flows.started(flows.single_stage, **_parameters(scope), stage=stage)
    if stage != UPDATE.name:
        return reports, ()
    artifacts = _walk(scope, scope.steps).artifacts
    return reports, tell_round(scope, artifacts, *_summary(scope, artifacts))


def _run(
    scope: Scope,
    steps: Sequence[Step],
    progress: Progress,
    start: Callable[[Any], Any],
    rerun_from: str | None = None,
) -> tuple[Sequence[StepReport], dict[str, Artifact]]:
    """The flow, or nothing but the records when all is there and no server wants to see it."""
    if rerun_from is not None:
        _known_step(scope, rerun_from, "--from")
    walk = _walk(scope, steps)
    if walk.complete and rerun_from is None and server_url(scope.layout) is None:
        for look in walk.looks:
            scope.record(look.step, walk.artifacts[look.step.name])
        return [reused(look, walk.artifacts[look.step.name]) for look in walk.looks], walk.artifacts
    if any(step.stage.weights for step in steps):
        _policy(scope, steps)  # no such model, or a round before that has not run: said before a server starts
    if any(step.stage.weights == "trains" for step in steps):
        check_processes(scope.config)
    generates = steps is not DIAGNOSIS or scope.independent_replay_count > 0
    if generates and any(step.stage.weights == "samples" and step.name not in walk.artifacts for step in steps):
        workbench().load_ahead(scope.config)
    with _serving(scope, progress) as flows:
        reports = start(flows)
    return reports, _walk(scope, steps).artifacts


def _policy(scope: Scope, steps: Sequence[Step]) -> PolicyVersion:
    return scope.policy_after if steps is EVALUATION else scope.policy


def _walk(scope: Scope, steps: Sequence[Step]) -> Walk:
    return scope.walk(tuple(steps), scope.policy_after if steps is EVALUATION else None)


@contextmanager
def _serving(scope: Scope, progress: Progress) -> Iterator[Any]:
    """The flows' module, with one command per round and the progress display in place."""
    name = f"run-{scope.run}-{scope.variant}-{scope.round}"
    with exclusive_lock(scope.layout, name, f"round {scope.round} of run '{scope.run}'"):
        await_server = use_server(scope.layout)
        workbench().progress = progress
        from pipeline.flows import round_flows as flows  # Prefect takes two seconds to import: only when something runs

        warm_up()
        await_server()
        flows.connect()
        yield flows


def _parameters(scope: Scope) -> dict[str, Any]:
    return {"run": scope.run, "round": scope.round, "store": str(scope.store), "variant": scope.variant}


def _summary(scope: Scope, artifacts: dict[str, Artifact]) -> tuple[Row | None, Sequence[Row]]:
    """The round's figures: as recorded where they are of these very rows, so that a finished round needs no query."""
    if "grade" not in artifacts:
        return None, []
    # the evaluations of a round are those of its plan: what is earned without a message is no part of its mean reward
    summed = [artifact for name, artifact in artifacts.items() if name not in names(ABLATED_REPLAYS)]
    content = summary_content(summed)
    recorded = RoundRecord.load(scope.layout, scope.ref).summary
    if recorded is None or recorded.content != content:
        recorded = RoundSummary(content, *round_summary(summed))
        with (
            suppress(StoreError),
            edit_round(scope.layout, scope.ref) as record,
        ):  # it only saves the next command a query
            record.summary = recorded
    return recorded.figures, recorded.signal


def seeded_run(run: str, seed: int | None) -> str:
    """The run's name in a sweep over seeds."""
    return run if seed is None else f"{run}-seed{seed}"
