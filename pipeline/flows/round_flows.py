"""The flows: a round, as Prefect sees it. Prefect lives in this folder and in `pipeline/deployments.py` alone.

A step is a task run, and so is each of its parts. Their cache keys are the stage keys, so what is reused shows as
Cached. The manifest is the truth: a cached state whose artifact is missing or corrupt is not a hit.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import lru_cache, partial
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

from configs.errors import StoreError
from pipeline.execution.context import ExecutionContext
from pipeline.execution.remote import PartTask, check_shared_engine, part_task, run_part_task
from pipeline.execution.runner import RoundRunner, StepReport, StepRun, make_part
from pipeline.execution.signals import install_handlers
from pipeline.flows.server import is_temporary
from pipeline.flows.task_runners import task_runner
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.round import load_round
from pipeline.steps import DIAGNOSIS, EVALUATION, INTERVENTIONS, StepList
from stages.base.inputs import Part
from stages.base.job import Intervention
from store.artifacts.artifact import Artifact
from store.artifacts.writer import ArtifactWriter
from store.disk.layout import MAIN, Layout, part_name
from store.runs.records import RoundRef

Reference = dict[str, str]
"""What a task run returns and Prefect keeps: where the result lies, never the result."""
Records = dict[int, dict[str, Any]]
"""The records of parts, by the part's index."""


class StageKey(CachePolicy):
    """Give Prefect the stage key as its cache key, and nothing of Prefect's own."""

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        return str(inputs["key"])


@task(task_run_name="{part} of {step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def part_run(key: str, step: str, part: str, work: Any) -> Reference:
    """Make one part of a step. `key` is the stage key and the part's name."""
    return {"part": str(work.value()["name"]), "key": key}


@task(task_run_name="{part} of {step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def remote_part_run(key: str, step: str, part: str, work: Any) -> Reference:
    """Make one part in a worker's process: the work is a PartTask, and the part's record is read back from the store."""
    return {"part": str(run_part_task(work.value)["name"]), "key": key}


@task(task_run_name="{step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def step_run(key: str, step: str, work: Any) -> Reference:
    """Make or reuse one step of a round. `key` is the stage key."""
    artifact = work.value()
    return {"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}


@lru_cache
def _named(run: Task[..., Reference], name: str, refresh: bool) -> Task[..., Reference]:
    """Return the task under the name that Prefect shows. `refresh`: what Prefect remembers of its key is no hit."""
    return run.with_options(name=name, refresh_cache=refresh)


class Deferred:
    """Carry work that a task run does here, or the PartTask that one does elsewhere.

    Opaque to Prefect, which would otherwise search it for futures. Prefect sends the parameters of a flow and of its tasks
    along to every worker: what only this process can do is left out of them.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Deferred], tuple[PartTask | None]]:
        return Deferred, (self.value if isinstance(self.value, PartTask) else None,)


class PartRuns:
    """Make the missing parts of one step as task runs of their own."""

    def __init__(self, run: StepRun, label: str) -> None:
        self._run = run
        self._label = label
        self._name = f"{run.state.step.name} part"
        self._context = run.context

    def make(self, writer: ArtifactWriter) -> Records:
        """Make them side by side where the stage allows it, here or in other processes; return their records."""
        sequential = self._run.state.step.stage.sequential
        if self._context.is_remote and not sequential:
            return self._make_remote(writer)
        return self._make_here(writer, one_by_one=sequential or self._context.workers.count == 1)

    def show_kept(self) -> None:
        """Show parts that an interrupted command left as Cached, to who watches a server that outlives this command."""
        if is_temporary():
            return
        labelled = _named(part_run, self._name, False)
        for part in self._run.kept:
            name = part_name(part.index)
            labelled(*self._arguments(part, Deferred(lambda name=name: {"name": name})))

    def _arguments(self, part: Part, work: Deferred) -> tuple[str, str, str, Deferred]:
        name = part_name(part.index)
        return f"{self._run.state.key}-{name}", self._label, name, work

    def _make_here(self, writer: ArtifactWriter, one_by_one: bool) -> Records:
        made: Records = {}

        def work(part: Part) -> dict[str, Any]:
            made[part.index] = make_part(writer, self._run.state, part, self._context)
            return made[part.index]

        # a part is only asked for when it is not in the store, so a state that Prefect remembers is no hit
        labelled = _named(part_run, self._name, True)
        futures = []
        for part in self._run.missing:
            arguments = self._arguments(part, Deferred(lambda part=part: work(part)))
            if one_by_one:
                labelled(*arguments)
            else:
                futures.append(labelled.submit(*arguments))
        wait(futures)  # all of them, also when one failed: the lock must not go while another still writes
        for future in futures:
            future.result()
        return made

    def _make_remote(self, writer: ArtifactWriter) -> Records:
        """Send every missing part out. A worker that dies is replaced by its runner, and its part asked for again."""
        state, context = self._run.state, self._context
        context.limits.check()
        check_shared_engine(state, context.resources)
        labelled = _named(remote_part_run, self._name, True)
        futures = []
        for part in self._run.missing:
            task = part_task(state, self._run.resolver.round.layout, part, context.limits)
            futures.append(labelled.submit(*self._arguments(part, Deferred(task))))
        for future in futures:
            future.wait()  # all of them, also when one failed: the lock must not go while another still writes
        writer.clear_left_over()  # of workers that died
        made: Records = {}
        for part, future in zip(self._run.missing, futures, strict=True):
            future.result()
            record = writer.part(part.index)
            if record is None:
                raise StoreError(
                    f"{state.step.name}: a worker made {part_name(part.index)}, but it is not in {writer.path}; workers "
                    f"need the same store, under the same path"
                )
            context.limits.add(state.step.stage.name, record["usage"])
            context.progress.advance(record["usage"].get("messages", 0))
            made[part.index] = record
        return made


class RoundFlows:
    """Run rounds as Prefect flows, with what one command works with."""

    def __init__(self, context: ExecutionContext | None) -> None:
        """`context`: None where Prefect has sent the flow's parameters to a worker, which runs no flow."""
        self._own = context

    def __reduce__(self) -> tuple[type[RoundFlows], tuple[None]]:
        return RoundFlows, (None,)  # what a command works with stays in its process

    @property
    def _context(self) -> ExecutionContext:
        assert self._own is not None, "a flow runs where its command does"
        return self._own

    def start(self, requested: Flow[..., Any], **parameters: Any) -> Any:
        """Run a flow of this object with the part workers that the command employs; return its reports."""
        workers = self._context.workers
        if (
            workers.runner != "threads" or workers.count > 1
        ):  # a flow of other options takes a fifth of a second to build
            requested = requested.with_options(task_runner=task_runner(workers))
        return requested(**parameters)

    @flow(name="iteration", flow_run_name="{run} · round {round}", persist_result=False)
    def iteration(
        self,
        run: str,
        round: int,
        store: str = "c3-store",
        variant: str = MAIN,
        until: str = "update",
        rerun_from: str | None = None,
    ) -> Any:
        """Run one round: collect, credit, update. Steps whose results are there are reused."""
        resolver = _resolver(run, round, store, variant)
        names = resolver.steps.names
        rerun = names[names.index(rerun_from) :] if rerun_from else ()
        return self._run(RoundRunner(resolver, self._context, rerun=rerun), resolver.steps.until(until))

    @flow(name="stage", flow_run_name="{run} · round {round} · {stage}", persist_result=False)
    def single_stage(self, run: str, round: int, stage: str, store: str = "c3-store", variant: str = MAIN) -> Any:
        """Run one step of a round; the steps before it must have run."""
        resolver = _resolver(run, round, store, variant)
        steps = resolver.list_with(stage)
        there = resolver.artifacts_before(stage)
        before = steps.steps[: steps.names.index(stage)]
        runner = RoundRunner(resolver, self._context, there)
        runner.record([step for step in before if step.name in there])
        return self._run(runner, replace(steps, steps=(steps.step(stage),)))

    @flow(name="evaluation", flow_run_name="{run} · after round {round}", persist_result=False)
    def evaluation(self, run: str, round: int, store: str = "c3-store", variant: str = MAIN) -> Any:
        """Answer held-out problems greedily with the policy that a round ended with (round 0: the untrained team)."""
        return self._run(RoundRunner(_resolver(run, round, store, variant), self._context), EVALUATION)

    @flow(name="diagnosis", flow_run_name="{run} · diagnosis of round {round}", persist_result=False)
    def diagnosis(self, run: str, round: int, store: str = "c3-store", variant: str = MAIN) -> Any:
        """Measure what a round's credit is worth, with the independent replays that were requested."""
        resolver = _resolver(run, round, store, variant)
        return self._run(RoundRunner(resolver, self._context, resolver.inputs_of(DIAGNOSIS)), DIAGNOSIS)

    @flow(name="what if", flow_run_name="{run} · what if, round {round}", persist_result=False)
    def intervention(self, run: str, round: int, store: str, variant: str, question: dict[str, Any]) -> Any:
        """Continue and grade a user-supplied message at frozen states. `question`: the fields of an Intervention."""
        resolver = _resolver(run, round, store, variant, Intervention(**question))
        return self._run(RoundRunner(resolver, self._context, resolver.inputs_of(INTERVENTIONS)), INTERVENTIONS)

    def _run(self, runner: RoundRunner, steps: StepList) -> Sequence[StepReport]:
        install_handlers()  # again: Prefect takes SIGTERM for itself when a flow starts
        for step in steps:
            label = f"{step.name} · round {runner.resolver.round.ref.round}"
            for run in runner.attempts(step):
                _named(step_run, step.name, not run.reused)(run.state.key, label, Deferred(partial(_make, run, label)))
        return runner.reports


def _resolver(run: str, round: int, store: str, variant: str, intervention: Intervention | None = None) -> StepResolver:
    loaded = load_round(Layout(Path(store)), RoundRef(run, round, variant))
    return StepResolver(replace(loaded, intervention=intervention))


def _make(run: StepRun, label: str) -> Artifact:
    """Make a step's missing parts as task runs, unless its result is there."""
    if run.artifact is not None:
        return run.artifact
    with run.open() as writer:
        parts = PartRuns(run, label)
        parts.show_kept()
        return run.close(writer, parts.make(writer))


def connect() -> None:
    """Open Prefect's client for all flows of this process: to make one for each takes longer than to open a flow."""
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
    """Return Prefect's settings where a flow runs: as they are, but for a server of this command's own."""
    if not is_temporary():
        return nullcontext()
    # the thread of a flow's heartbeats ends up to a second after the flow, and nobody asks such a server about them
    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})
