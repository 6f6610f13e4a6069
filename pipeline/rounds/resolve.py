"""Find out what of a round is there: each step's key, from the digests of its inputs, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from configs.errors import ConfigError, MissingFileError, StoreError
from pipeline.rounds.policy import policy_after, policy_before
from pipeline.rounds.round import Round
from pipeline.rounds.state import RoundState, StepState
from pipeline.steps import OPTIONAL, ORDER, Step, StepList, list_with, round_steps, step_named
from stages.base.inputs import Inputs
from stages.base.job import RETRIED, GradeJob, IndependentReplayJob, InterventionJob, Job
from stages.base.keys import stage_key
from stages.engines.registry import engine_identity
from stages.learners.registry import learner_identity
from store.artifacts.artifact import Artifact, load_manifest
from store.artifacts.integrity import load_verified
from store.artifacts.policy_version import PolicyVersion
from store.disk.layout import COPY, IMPORTED
from store.runs.records import RoundRecord, RoundRef, RunRecord
from store.runs.variants import draw_set_of, line_of_step, steps_of


class StepResolver:
    """Resolve the steps of one round. What the round's records say is read once: `reload` after they changed."""

    def __init__(self, round: Round) -> None:
        self.round = round
        self.steps = round_steps(round.config)
        """The round's steps, as its configuration has them."""
        self._records: dict[RoundRef, RoundRecord] = {}

    def reload(self) -> None:
        """Read the round's records again when next asked."""
        self._records.clear()
        self.__dict__.pop("draw_set", None)

    # --- what is recorded for the round

    def line(self, step: str) -> RoundRef:
        """Return whose record holds for a step: a variant's own from the stage it branches at, its parent's before."""
        return line_of_step(self.round.layout, self.round.ref, step, ORDER)

    def record_of(self, step: str) -> RoundRecord:
        """Return the record that holds for a step."""
        line = self.line(step)
        if line not in self._records:
            self._records[line] = RoundRecord.load(self.round.layout, line)
        return self._records[line]

    @cached_property
    def draw_set(self) -> int:
        """Which set of draws the round uses; 0 the first."""
        return draw_set_of(self.round.layout, self.round.ref)

    @property
    def independent_replays(self) -> int:
        """How many independent replays of each alternative the round's diagnosis may spend."""
        return self.record_of("independent_replay").independent_replays

    # --- policies

    @cached_property
    def policy_before(self) -> PolicyVersion:
        """The frozen policy that the round starts from. StoreError when the round before has none."""
        return policy_before(self.round)

    @cached_property
    def policy_after(self) -> PolicyVersion:
        """The policy that the round ended with; of round 0 the untrained model. StoreError when it has none."""
        return policy_after(self.round)

    def policy_of(self, steps: StepList) -> PolicyVersion:
        """Return the policy that a list of steps uses."""
        return self.policy_after if steps.policy == "after" else self.policy_before

    # --- one step

    def resolve(self, step: Step, inputs: Mapping[str, Artifact]) -> StepState:
        """Return a step's state, a retry that was requested among it. `inputs`: results by step; others are not looked at."""
        state = self._resolve_first(step, inputs)
        if step.name not in ORDER:
            return state
        for attempt, retried in enumerate(self.record_of(step.name).retries.get(step.name, ()), start=1):
            if state.key != retried:
                break  # requested when the step had another key
            if state.artifact is None:
                return replace(state, retry_pending=True)
            state = self.retry(state, state.artifact, attempt)
        return state

    def _resolve_first(self, step: Step, inputs: Mapping[str, Artifact]) -> StepState:
        job = self._job(step, Inputs({name: inputs[name] for name in step.inputs}))
        try:
            key, made_of = stage_key(step.stage, job, self._weights_identity(step))
        except MissingFileError:
            read = self._read_before(step)
            if read is None:
                raise
            key, made_of = read.key, read.manifest["cache_key_inputs"]
        if step.stage is step_named(step.name).stage:  # not one that was put in its place, as `c3 import` does
            key = self._recorded_copy(step, key)
        return self._state(step, job, key, made_of)

    def _state(self, step: Step, job: Job, key: str, made_of: dict[str, Any]) -> StepState:
        layout, stage = self.round.layout, step.stage.name
        job = replace(job, output=layout.artifact(stage, key))
        return StepState(step, job, key, made_of, load_verified(layout, stage, key), self.round.label)

    def _job(self, step: Step, inputs: Inputs) -> Job:
        steps = list_with(step.name)
        policy = self.policy_of(steps) if step.stage.weights or steps.policy == "after" else None
        draw_set = 0 if steps.policy == "after" else self.draw_set  # greedy answers have no draws
        more: dict[str, Any] = {}
        if step.stage.job_type is IndependentReplayJob:
            more = {"count": self.independent_replays}
        elif step.stage.job_type is InterventionJob:
            more = {"intervention": self.round.intervention}
        return step.stage.job_type(self.round.config, self.round.ref.round, inputs, policy, draw_set=draw_set, **more)

    def _weights_identity(self, step: Step) -> dict[str, Any] | None:
        if step.stage.weights == "samples":
            return engine_identity(self.round.config.engine)
        return learner_identity(self.round.config) if step.stage.weights == "trains" else None

    def _read_before(self, step: Step) -> Artifact | None:
        """Return what this run has of a problem file that is not here: the run was copied without it, or the file moved.

        Of this round or one before, under the same configuration of problems; None: it never was read.
        """
        layout, ref = self.round.layout, self.round.ref
        wanted = _problem_files(self.round.config.model_dump(mode="json"))
        run = RunRecord.load(layout, ref.run)
        for number in range(ref.round, -1, -1):
            entry = steps_of(layout, replace(ref, round=number)).get(step.name)
            config = run.config_at(number) if run else None
            if entry and config and _problem_files(config) == wanted:
                return load_verified(layout, entry.stage, entry.key)
        return None

    def retry(self, state: StepState, rewards: Artifact, attempt: int) -> StepState:
        """Return the step that grades again what is missing in its rewards, as an artifact of its own."""
        assert isinstance(state.job, GradeJob)
        job = replace(state.job, inputs=Inputs({**state.job.inputs, RETRIED: rewards}), retry=attempt)
        key, made_of = stage_key(state.step.stage, job, None)
        return self._state(state.step, job, self._recorded_copy(state.step, key), made_of)

    def copy(self, state: StepState) -> StepState:
        """Return the step to be made again as a copy of what is there. ConfigError when that was imported."""
        if state.key.startswith(IMPORTED):
            raise ConfigError(
                f"--from {state.step.name}: the transcripts of round {self.round.ref.round} were imported, so nothing here "
                f"can make them again; use --from freeze, or `c3 import` another file"
            )
        base = state.key.partition(COPY)[0]
        number = 2
        while load_manifest(self.round.layout, state.step.stage.name, key := f"{base}{COPY}{number}"):
            number += 1  # one that was never finished is gone on with
        job = replace(state.job, output=self.round.layout.artifact(state.step.stage.name, key))
        return replace(state, job=job, key=key, artifact=None)

    def imported(self, step: Step, inputs: Mapping[str, Artifact]) -> StepState:
        """Return a step whose rows another system made: its key says so, and no stage here can make it again."""
        state = self.resolve(step, inputs)
        return self._state(step, state.job, f"{IMPORTED}{state.key}", state.cache_key_inputs)

    def _recorded_copy(self, step: Step, key: str) -> str:
        """Return the key, or that of the copy which this round was told to use (`--from`, `c3 import`).

        StoreError when it was told to use imported transcripts and they are corrupt: no stage can make those again.
        """
        if step.name not in ORDER:
            return key
        layout, record = self.round.layout, self.record_of(step.name)
        recorded = record.steps[step.name].key if step.name in record.steps else key
        if recorded.startswith(IMPORTED) and not load_verified(layout, step.stage.name, recorded):
            raise StoreError(
                f"{step.name} {recorded}: these imported transcripts are missing or corrupt (`c3 verify` says where); take "
                f"the same file again: c3 import FILE --run {self.round.ref.run} --round {self.round.ref.round}"
            )
        if recorded.startswith((f"{key}{COPY}", IMPORTED)):
            return recorded
        for used in record.retries.get(step.name, []):
            if used.startswith(f"{key}{COPY}") and load_verified(layout, step.stage.name, used):
                return used
        return key

    # --- lists of steps

    def list_with(self, name: str) -> StepList:
        """Return the list that the step of that name is in. ConfigError when the round has no such step."""
        if name in self.steps.names:
            return self.steps
        steps = list_with(name)
        if steps in OPTIONAL:
            raise ConfigError(
                f"{name}: only some estimators read {steps.name}, and advantages.estimator is "
                f"{self.round.config.advantages.estimator}"
            )
        return steps

    def resolve_steps(self, steps: StepList | None = None) -> RoundState:
        """Follow the steps (default: the round's) as far as their results are there."""
        steps = self.steps if steps is None else steps
        state = RoundState(artifacts=self._read_outside(steps))
        for step in steps:
            if any(name not in state.artifacts for name in step.inputs):
                state.unknown.append(step)
                continue
            found = self.resolve(step, state.artifacts)
            state.steps.append(found)
            if found.artifact is not None:
                state.artifacts[step.name] = found.artifact
        return state

    def _read_outside(self, steps: StepList) -> dict[str, Artifact]:
        """Return the results of the round that another list reads, as far as they are there."""
        read = steps.read_outside
        return {name: found for name, found in self.resolve_steps().artifacts.items() if name in read} if read else {}

    def inputs_of(self, steps: StepList) -> dict[str, Artifact]:
        """Return the results of the round that another list reads. StoreError naming what has to run first."""
        given = self._read_outside(steps)
        for name in self.steps.names:
            if name in steps.read_outside and name not in given:
                raise self._not_run(steps.names[-1], name)
        return given

    def artifacts_before(self, name: str) -> dict[str, Artifact]:
        """Return all results up to a step, its inputs among them. StoreError naming what has to run first."""
        steps = self.list_with(name)
        step = steps.step(name)
        artifacts = self.resolve_steps(steps).artifacts
        # in the order of the steps: the first that is missing is why those after it are not known
        for other in (*self.steps.names, *steps.names):
            if other in step.inputs and other not in artifacts:
                raise self._not_run(name, other)
        return artifacts

    def _not_run(self, name: str, missing: str) -> StoreError:
        options = f"--run {self.round.ref.run} --round {self.round.ref.round}"
        return StoreError(
            f"{name} of round {self.round.ref.round} needs {missing}, which has not run with this configuration; run "
            f"`c3 run iteration {options}` or `c3 run stage {missing} {options}` first"
        )


def _problem_files(config: Mapping[str, Any]) -> list[Any]:
    return [config["problems"], config["evaluate"]["problems"]]
