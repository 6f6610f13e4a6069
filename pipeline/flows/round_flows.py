"""The flows: a round, as Prefect sees it. The only rooms with Prefect are this file and its server's.

A step is a task run, and so is each of its parts. Their cache keys are the stage keys, so what is reused shows as
Cached. The manifest is the truth: a cached state whose artifact is missing or corrupt is not a hit.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import fastapi.encoders  # noqa: F401  Prefect imports it when a flow begins; here it is done while a server starts
from prefect import Flow, Task, flow, task
from prefect.cache_policies import CachePolicy
from prefect.context import SyncClientContext, TaskRunContext
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.futures import wait
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from configs.errors import C3Error, LimitReachedError, StoreError
from pipeline.execution.context import workbench
from pipeline.execution.remote import check_shared_engine, fill, order
from pipeline.execution.runner import StepReport, make_part, make_step, reused
from pipeline.execution.signals import install_handlers
from pipeline.flows.server import is_temporary
from pipeline.flows.task_runners import task_runner
from pipeline.rounds.round import Scope
from pipeline.rounds.state import Look
from pipeline.steps import DIAGNOSIS, EVALUATION, INTERVENTION_STEPS, Step, names
from stages.base.job import Intervention, Part
from store.artifacts.artifact import Artifact, remove
from store.artifacts.policy_version import PolicyVersion
from store.artifacts.writer import ArtifactWriter, open_writer
from store.disk.layout import MAIN, part_name

Reference = dict[str, str]
"""What a task run returns and Prefect keeps: where the result lies, never the result."""


class StageKey(CachePolicy):
    """Prefect's cache key is the stage key, and nothing of Prefect's own."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        return str(inputs["key"])


@task(task_run_name="{part} of {step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def part_run(key: str, step: str, part: str, work: Any) -> Reference:
    """One part of a step. `key` is the stage key and the part's name."""
    return {"part": str(work.value()["name"]), "key": key}


@task(task_run_name="{part} of {step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def far_part_run(key: str, step: str, part: str, work: Any) -> Reference:
    """The same in a worker's process: the work is an order, and the part's record is read back from the store."""
    return {"part": str(fill(work.value)["name"]), "key": key}


@task(task_run_name="{step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def step_run(key: str, step: str, work: Any) -> Reference:
    """One step of a round. `key` is the stage key."""
    artifact: Artifact = work.value()
    return {"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}


@lru_cache
def _named(run: Task[..., Reference], name: str, refresh: bool) -> Task[..., Reference]:
    """The task under the name that Prefect shows. `refresh`: what Prefect remembers of its key is no hit."""
    return run.with_options(name=name, refresh_cache=refresh)


class Deferred:
    """Work that a task run calls. Opaque to Prefect, which would otherwise search it for futures."""

    def __init__(self, call: Any) -> None:
        self.value = call


class RoundRun:
    """One round on its way: makes or reuses step after step, and remembers what became of each."""

    def __init__(self, scope: Scope, rerun_from: str | None = None) -> None:
        install_handlers()
        self.scope = scope
        self.artifacts: dict[str, Artifact] = {}
        self.reports: list[StepReport] = []
        order = names(scope.steps)
        self._again = set(order[order.index(rerun_from) :]) if rerun_from else set()

    def run(self, step: Step, policy: PolicyVersion | None = None) -> Artifact:
        """The step's result: reused where it is there, made where it is not."""
        look = self.scope.look(step, self.artifacts, policy)
        before = look.artifact
        if before is not None and step.name in self._again:
            look = self.scope.beside(look)
        label = f"{step.name} · round {self.scope.round}"
        if look.artifact is not None:
            artifact, report = look.artifact, reused(look, look.artifact)
            self._task(step, look, label, lambda: artifact)
        else:
            artifact, report = self._made(step, look, label)
            if before is not None:
                report.rows_equal = artifact.digest == before.digest
                artifact = self._chosen(before, artifact)
        self.reports.append(report)
        self.artifacts[step.name] = artifact
        self.scope.record(step, artifact)
        self.scope.record_failure(step, None)
        if look.awaited:
            return self.run(step, policy)  # what a retry goes out from is there again: now the retry
        return artifact

    def _made(self, step: Step, look: Look, label: str) -> tuple[Artifact, StepReport]:
        made: list[tuple[Artifact, StepReport]] = []

        def work() -> Artifact:
            try:
                made.append(self._make(look, label))
            except C3Error as error:
                if not isinstance(error, LimitReachedError):
                    self.scope.record_failure(look.step, str(error))
                raise
            return made[0][0]

        self._task(step, look, label, work)
        return made[0]

    def _task(self, step: Step, look: Look, label: str, work: Callable[[], Artifact]) -> None:
        _named(step_run, step.name, look.artifact is None)(look.key, label, Deferred(work))

    def _chosen(self, before: Artifact, again: Artifact) -> Artifact:
        """Of equal rows the first stays, so that everything after it is still reused."""
        if again.digest != before.digest:
            return again
        remove(again)
        return before

    def _make(self, look: Look, label: str) -> tuple[Artifact, StepReport]:
        bench = workbench()
        bench.progress.start(look.step.name, look.step.stage.messages(look.job))
        try:
            with open_writer(self.scope.layout, look.step.stage.name, look.key) as writer:
                return make_step(
                    writer,
                    look,
                    lambda parts: self._parts(writer, look, parts, label),
                    lambda parts: self._show_kept(look, parts, label),
                )
        finally:
            bench.progress.finish()

    def _show_kept(self, look: Look, parts: Sequence[Part], label: str) -> None:
        """Parts that an interrupted command left, as Cached: for who watches a server that outlives this command."""
        if is_temporary():
            return
        labelled = _named(part_run, f"{look.step.name} part", False)
        for part in parts:
            name = part_name(part.index)
            labelled(f"{look.key}-{name}", label, name, Deferred(lambda name=name: {"name": name}))

    def _parts(self, writer: ArtifactWriter, look: Look, parts: Sequence[Part], label: str) -> list[dict[str, Any]]:
        """Each missing part as a task run of its own; side by side where the stage allows it."""
        if workbench().far and not look.step.stage.sequential:
            return self._far_parts(writer, look, parts, label)
        made: dict[int, dict[str, Any]] = {}

        def work(part: Part) -> dict[str, Any]:
            made[part.index] = make_part(writer, look, part, workbench().ready(), workbench().limits)
            return made[part.index]

        def run(part: Part) -> Any:
            name = part_name(part.index)
            arguments = (f"{look.key}-{name}", label, name, Deferred(lambda: work(part)))
            return labelled(*arguments) if alone else labelled.submit(*arguments)

        # a part is only asked for when it is not in the store, so a state that Prefect remembers is no hit
        labelled = _named(part_run, f"{look.step.name} part", True)
        alone = look.step.stage.sequential or workbench().workers.count == 1
        futures = [run(part) for part in parts]
        if not alone:
            wait(futures)  # all of them, also when one failed: the lock must not go while another still writes
            for future in futures:
                future.result()
        return [made[part.index] for part in parts]

    def _far_parts(self, writer: ArtifactWriter, look: Look, parts: Sequence[Part], label: str) -> list[dict[str, Any]]:
        """Every missing part sent out. A worker that dies is replaced by its runner, and its part asked for again."""
        bench = workbench()
        bench.limits.check()
        check_shared_engine(look, bench.resources)
        asked = _named(far_part_run, f"{look.step.name} part", True)
        futures = []
        for part in parts:
            name, work = part_name(part.index), Deferred(order(look, self.scope.layout, part, bench.limits))
            futures.append(asked.submit(f"{look.key}-{name}", label, name, work))
        for future in futures:
            future.wait()  # all of them, also when one failed: the lock must not go while another still writes
        writer.clear_left_over()  # of workers that died
        records = []
        for part, future in zip(parts, futures, strict=True):
            future.result()
            record = writer.part(part.index)
            if record is None:
                raise StoreError(
                    f"{look.step.name}: a worker made {part_name(part.index)}, but it is not in {writer.path}; workers "
                    f"need the same store, under the same path"
                )
            bench.limits.add(look.step.stage.name, record["usage"])
            bench.progress.advance(record["usage"].get("messages", 0))
            records.append(record)
        return records


def started(asked: Flow[..., Any], **parameters: Any) -> Any:
    """Run a flow with the part workers that the command employs."""
    workers = workbench().workers
    if workers.runner != "threads" or workers.count > 1:  # a flow of other options takes a fifth of a second to build
        asked = asked.with_options(task_runner=task_runner(workers))
    return asked(**parameters)


def connect() -> None:
    """Prefect's client for all flows of this process: to make one for each takes longer than to open a flow."""
    _connected(PREFECT_API_URL.value())


@lru_cache(maxsize=1)
def _connected(url: str | None) -> ExitStack:
    # nobody can ask a server about events that ends with this command; sent, they also make it refuse requests for
    # seconds, for its database takes one writer at a time
    EventsWorker.set_client_override(NullEventsClient if is_temporary() else None)
    with ExitStack() as entered:
        entered.enter_context(_flow_settings())
        entered.enter_context(SyncClientContext())
        kept = entered.pop_all()  # not if one of them failed
    atexit.register(_close, kept)
    return kept


def _close(kept: ExitStack) -> None:
    with suppress(ValueError):  # entered within another flow (`c3 serve`), whose context is gone by now
        kept.close()


def _flow_settings() -> AbstractContextManager[object]:
    """Prefect's settings where a flow runs: as they are, but for a server of this command's own."""
    if not is_temporary():
        return nullcontext()
    # the thread of a flow's heartbeats ends up to a second after the flow, and nobody asks such a server about them
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


@flow(name="iteration", flow_run_name="{run} · round {round}", persist_result=False)
def iteration(
    run: str,
    round: int,
    store: str = "c3-store",
    variant: str = MAIN,
    until: str = "update",
    rerun_from: str | None = None,
) -> Any:
    """One round: collect, credit, update. Steps whose results are there are reused."""
    progress = RoundRun(Scope(Path(store), run, round, variant), rerun_from)
    steps = progress.scope.steps
    for step in steps[: names(steps).index(until) + 1]:
        progress.run(step)
    return progress.reports


@flow(name="stage", flow_run_name="{run} · round {round} · {stage}", persist_result=False)
def single_stage(run: str, round: int, stage: str, store: str = "c3-store", variant: str = MAIN) -> Any:
    """One step of a round; the steps before it must have run."""
    scope = Scope(Path(store), run, round, variant)
    steps = scope.steps_with(stage)
    progress = RoundRun(scope)
    policy = scope.policy_after if steps is EVALUATION else None
    progress.artifacts = dict(scope.artifacts_before(stage, steps, policy))
    for before in steps[: names(steps).index(stage)]:
        if before.name in progress.artifacts:
            scope.record(before, progress.artifacts[before.name])
    progress.run(next(step for step in steps if step.name == stage), policy)
    return progress.reports


@flow(name="evaluation", flow_run_name="{run} · after round {round}", persist_result=False)
def evaluation(run: str, round: int, store: str = "c3-store", variant: str = MAIN) -> Any:
    """Greedy answers of the policy that a round ended with (round 0: the untrained team)."""
    scope = Scope(Path(store), run, round, variant)
    progress = RoundRun(scope)
    for step in EVALUATION:
        progress.run(step, scope.policy_after)
    return progress.reports


@flow(name="diagnosis", flow_run_name="{run} · diagnosis of round {round}", persist_result=False)
def diagnosis(run: str, round: int, store: str = "c3-store", variant: str = MAIN) -> Any:
    """What a round's credit is worth, with the independent replays that were asked for."""
    scope = Scope(Path(store), run, round, variant)
    progress = RoundRun(scope)
    progress.artifacts = scope.artifacts_beside(DIAGNOSIS)
    for step in DIAGNOSIS:
        progress.run(step)
    return progress.reports


@flow(name="probing", flow_run_name="{run} · what if, round {round}", persist_result=False)
def intervention(run: str, round: int, store: str, variant: str, question: dict[str, Any]) -> Any:
    """A message of one's own at frozen states of a round, continued and graded. `question`: the fields of an intervention."""
    scope = Scope(Path(store), run, round, variant).asking(Intervention(**question))
    progress = RoundRun(scope)
    progress.artifacts = scope.artifacts_beside(INTERVENTION_STEPS)
    for step in INTERVENTION_STEPS:
        progress.run(step)
    return progress.reports
