"""The flows: a round, as Prefect sees it. The only rooms with Prefect are this file and its server's.

A step is a task run, and so is each of its parts. Their cache keys are the stage keys, so what is reused shows as
Cached. The manifest is the truth: a cached state whose artifact is missing or damaged is not a hit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import CachePolicy
from prefect.context import TaskRunContext

from pipeline.runner import StepReport, make_part, make_step, reused
from pipeline.scope import Look, Scope
from pipeline.steps import EVALUATION, ROUND, Step, names
from pipeline.workbench import workbench
from stages.stage import Part
from store.artifacts import Artifact, ArtifactWriter, find, open_writer
from store.layout import MAIN, part_name
from store.policies import PolicyVersion, policy_of

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


@task(task_run_name="{step}", cache_policy=StageKey(), persist_result=True, result_serializer="json")
def step_run(key: str, step: str, work: Any) -> Reference:
    """One step of a round. `key` is the stage key."""
    artifact: Artifact = work.value()
    return {"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}


class Deferred:
    """Work that a task run calls. Opaque to Prefect, which would otherwise search it for futures."""

    def __init__(self, call: Any) -> None:
        self.value = call


class RoundRun:
    """One round on its way: makes or reuses step after step, and remembers what became of each."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.artifacts: dict[str, Artifact] = {}
        self.reports: list[StepReport] = []

    def run(self, step: Step, policy: PolicyVersion | None = None) -> Artifact:
        """The step's result: reused where it is there, made where it is not."""
        look = self.scope.look(step, self.artifacts, policy)
        fresh = look.artifact is None
        label = f"{step.name} · round {self.scope.round}"
        step_run.with_options(name=step.name, refresh_cache=fresh)(
            look.key, label, Deferred(lambda: self._make(look, label) if fresh else look.artifact)
        )
        artifact = find(self.scope.layout, step.stage.name, look.key)
        assert artifact is not None
        if not fresh:
            self.reports.append(reused(look, artifact))
        self.artifacts[step.name] = artifact
        self.scope.record(step, artifact)
        return artifact

    def _make(self, look: Look, label: str) -> Artifact:
        bench = workbench()
        bench.progress.start(look.step.name, look.step.stage.messages(look.job))
        try:
            with open_writer(self.scope.layout, look.step.stage.name, look.key) as writer:
                artifact, report = make_step(
                    writer, look, self.scope, lambda part: self._part(writer, look, part, label)
                )
        finally:
            bench.progress.finish()
        self.reports.append(report)
        return artifact

    def _part(self, writer: ArtifactWriter, look: Look, part: Part, label: str) -> dict[str, Any]:
        made: list[dict[str, Any]] = []

        def work() -> dict[str, Any]:
            made.append(make_part(writer, look, part, workbench().ready()))
            return made[0]

        name = part_name(part.index)
        # a part is only asked for when it is not in the store, so a state that Prefect remembers is no hit
        part_run.with_options(name=f"{look.step.name} part", refresh_cache=True)(
            f"{look.key}-{name}", label, name, Deferred(work)
        )
        return made[0]


@flow(name="iteration", flow_run_name="{run} · round {round}", persist_result=False)
def iteration(run: str, round: int, store: str = "c3-store", variant: str = MAIN, until: str = "update") -> Any:
    """One round: collect, credit, update. Steps whose results are there are reused."""
    progress = RoundRun(Scope(Path(store), run, round, variant))
    for step in ROUND[: names().index(until) + 1]:
        progress.run(step)
    return progress.reports


@flow(name="stage", flow_run_name="{run} · round {round} · {stage}", persist_result=False)
def single_stage(run: str, round: int, stage: str, store: str = "c3-store", variant: str = MAIN) -> Any:
    """One step of a round; the steps before it must have run."""
    scope = Scope(Path(store), run, round, variant)
    steps = ROUND if stage in names() else EVALUATION
    progress = RoundRun(scope)
    progress.artifacts = dict(scope.artifacts_before(stage, steps))
    progress.run(next(step for step in steps if step.name == stage), _evaluated_policy(scope, stage))
    return progress.reports


@flow(name="evaluation", flow_run_name="{run} · after round {round}", persist_result=False)
def evaluation(run: str, round: int, store: str = "c3-store", variant: str = MAIN) -> Any:
    """Greedy answers of the policy that a round ended with (round 0: the untrained team)."""
    scope = Scope(Path(store), run, round, variant)
    progress = RoundRun(scope)
    for step in EVALUATION:
        progress.run(step, scope.policy_after)
    return progress.reports
