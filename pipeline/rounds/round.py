"""One round of one run, seen from outside Prefect: which keys its steps have and which results are there.

Everything here works without torch and without Prefect, so that a finished round is recognised at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, MissingFileError, StoreError
from configs.load import build_config
from configs.schema import Config
from pipeline.rounds.state import Look, Walk
from pipeline.steps import (
    ABLATED_REPLAYS,
    EVERYTHING,
    INTERVENTION_STEPS,
    VALUES,
    Step,
    names,
    round_steps,
    step_named,
    steps_with,
)
from stages.base.job import RETRIED, Intervention, Job
from stages.base.keys import stage_key
from stages.engines.identity import engine_identity
from stages.learners.identity import learner_identity
from stages.models.identity import base_digest
from store.artifacts.artifact import Artifact, load_manifest
from store.artifacts.integrity import corruption_at, load_verified
from store.artifacts.policy_version import PolicyVersion, initial_policy, policy_of
from store.disk.layout import COPY, IMPORTED, MAIN, Layout
from store.runs.records import RoundRecord, RoundRef, StepRecord, config_at, edit_round, runs
from store.runs.variants import draw_set_of, line_of_step, overrides_of, steps_of

_ORDER = names(EVERYTHING)


def _problem_files(config: Mapping[str, Any]) -> list[Any]:
    return [config["problems"], config["evaluate"]["problems"]]


def _read_beside(steps: tuple[Step, ...]) -> set[str]:
    """The steps of another list that these read."""
    return {name for step in steps for name in step.inputs} - set(names(steps))


def _steps_for(record: RoundRecord, question: Mapping[str, Any] | None) -> dict[str, StepRecord]:
    """The steps recorded for a question, or for the round itself where there is none."""
    return record.steps if question is None else record.add_intervention(question).steps


@dataclass(frozen=True)
class Scope:
    """A round of a run. Plain strings and numbers, so that it can be handed to a worker and read in its page."""

    store: Path
    run: str
    round: int
    variant: str = MAIN

    @property
    def name(self) -> dict[str, Any]:
        """Which round this is."""
        return {"run": self.run, "round": self.round, "variant": self.variant}

    @property
    def ref(self) -> RoundRef:
        """Which round this is, as records name it."""
        return RoundRef(self.run, self.round, self.variant)

    @property
    def layout(self) -> Layout:
        """Where its files lie."""
        return Layout(self.store)

    @cached_property
    def config(self) -> Config:
        """The configuration that holds for this round."""
        raw = config_at(self.layout, self.run, self.round)
        if raw is None:
            known = ", ".join(runs(self.layout)) or "none"
            raise ConfigError(
                f"run '{self.run}': not in {self.store} (there is {known}); start it with --config FILE_OR_PRESET"
            )
        overrides = overrides_of(self.layout, self.ref)
        return build_config(raw, overrides, where=f"run '{self.run}'")

    def under(self, config: Config) -> Scope:
        """The same round as it would be under another configuration, nothing recorded."""
        scope = Scope(self.store, self.run, self.round, self.variant)
        scope.__dict__["config"] = config
        return scope

    def asking(self, intervention: Intervention) -> Scope:
        """The same round, asked what another message would have led to."""
        scope = self.under(self.config)
        scope.__dict__["intervention"] = intervention
        return scope

    @cached_property
    def intervention(self) -> Intervention | None:
        """What it is asked; None: nothing."""
        return None

    def has_predecessor(self) -> bool:
        """Whether the round before has run to its update (round 1 needs none)."""
        return self.round <= 1 or "update" in steps_of(self.layout, replace(self.ref, round=self.round - 1))

    @cached_property
    def policy(self) -> PolicyVersion:
        """The frozen policy this round starts from: the update of the round before, or the untrained model."""
        return self._policy_of(self.round - 1, self.config.update.max_version_lag)

    @cached_property
    def policy_after(self) -> PolicyVersion:
        """The policy this round ended with; of round 0 the untrained model."""
        return self._policy_of(self.round)

    def _policy_of(self, round: int, lag: int = 0) -> PolicyVersion:
        """The policy after a round; with it the versions of so many rounds before, as far as there are any."""
        names = list(self.config.policies)
        base = base_digest(self.config.engine)
        if round == 0:
            return initial_policy(base, names)
        command = f"c3 run iteration --run {self.run} --round {round}"
        entry = steps_of(self.layout, replace(self.ref, round=round)).get("update")
        if entry is None:
            raise StoreError(
                f"run '{self.run}': the policy of round {round} is asked for, but that round has not run to its update; "
                f"run `{command}` first"
            )
        artifact = load_verified(self.layout, entry.stage, entry.key)
        if artifact is None:
            raise StoreError(
                f"run '{self.run}': the policy of round {round} is missing or corrupt "
                f"({corruption_at(self.layout, entry.stage, entry.key)}); run `{command}` to make it again"
            )
        policy = policy_of(artifact, base, names)
        if not lag:
            return policy
        before = self._policy_of(round - 1, lag - 1)
        return replace(policy, earlier=(before.version, *before.earlier))

    def look(self, step: Step, inputs: Mapping[str, Artifact], policy: PolicyVersion | None = None) -> Look:
        """A step's key, from the digests of its inputs, and its result if that is there. A retry that was asked for counts."""
        look = self._first_look(step, inputs, policy)
        for attempt, retried in enumerate(self._retries.get(step.name, ()), start=1):
            if look.key != retried:
                break  # asked for when the step had another key
            if look.artifact is None:
                return replace(look, awaited=True)
            look = self._retry(look, look.artifact, attempt)
        return look

    def _first_look(self, step: Step, inputs: Mapping[str, Artifact], policy: PolicyVersion | None) -> Look:
        weights = policy or (self.policy if step.stage.weights else None)
        given = {name: inputs[name] for name in step.inputs}
        draw_set = 0 if policy else self.draw_set
        extra = self.independent_replay_count
        job = Job(
            self.config,
            self.round,
            given,
            weights,
            draw_set=draw_set,
            independent_replay_count=extra,
            intervention=self.intervention,
        )
        try:
            key, cache_key_inputs = stage_key(step.stage, job, self._weights_identity(step))
        except MissingFileError:
            read = self._read_before(step)
            if read is None:
                raise
            key, cache_key_inputs = read.key, read.manifest["cache_key_inputs"]
        key = self._recorded_copy(step, key) if step.stage is step_named(step.name).stage else key
        job = replace(job, output=self.layout.artifact(step.stage.name, key))
        return Look(step, job, key, cache_key_inputs, load_verified(self.layout, step.stage.name, key), self.name)

    def _read_before(self, step: Step) -> Artifact | None:
        """What this run has of a problem file that is not here: it may have been copied without it, or the file moved.

        Of this round or one before, under the same configuration of problems; None: it never was read.
        """
        wanted = _problem_files(self.config.model_dump(mode="json"))
        for round in range(self.round, -1, -1):
            entry = steps_of(self.layout, replace(self.ref, round=round)).get(step.name)
            config = config_at(self.layout, self.run, round)
            if entry and config and _problem_files(config) == wanted:
                return load_verified(self.layout, entry.stage, entry.key)
        return None

    def _retry(self, look: Look, rewards: Artifact, attempt: int) -> Look:
        """The same step, grading again what is missing in its rewards, as an artifact of its own."""
        job = replace(look.job, inputs={**look.job.inputs, RETRIED: rewards}, retry=attempt)
        key, cache_key_inputs = stage_key(look.step.stage, job, None)
        key = self._recorded_copy(look.step, key)
        job = replace(job, output=self.layout.artifact(look.step.stage.name, key))
        return replace(
            look,
            job=job,
            key=key,
            cache_key_inputs=cache_key_inputs,
            artifact=load_verified(self.layout, look.step.stage.name, key),
        )

    def beside(self, look: Look) -> Look:
        """The same step, to be made again beside what is there. ConfigError when that was imported."""
        if look.key.startswith(IMPORTED):
            raise ConfigError(
                f"--from {look.step.name}: the transcripts of round {self.round} were imported, so nothing here can make "
                f"them again; use --from freeze, or `c3 import` another file"
            )
        base = look.key.partition(COPY)[0]
        number = 2
        while load_manifest(self.layout, look.step.stage.name, key := f"{base}{COPY}{number}"):
            number += 1  # one that was never finished is gone on with
        job = replace(look.job, output=self.layout.artifact(look.step.stage.name, key))
        return replace(look, job=job, key=key, artifact=None)

    def _recorded_copy(self, step: Step, key: str) -> str:
        """The key, or that of the copy beside it which this round was told to use (`--from`, `c3 import`).

        StoreError when it was told to use imported transcripts and they are corrupt: no stage can make those again.
        """
        recorded = self._recorded[step.name].key if step.name in self._recorded else key
        if recorded.startswith(IMPORTED) and not load_verified(self.layout, step.stage.name, recorded):
            raise StoreError(
                f"{step.name} {recorded}: these imported transcripts are missing or corrupt (`c3 verify` says where); take "
                f"the same file again: c3 import FILE --run {self.run} --round {self.round}"
            )
        if recorded.startswith((f"{key}{COPY}", IMPORTED)):
            return recorded
        for used in self._retries.get(step.name, []):
            if used.startswith(f"{key}{COPY}") and load_verified(self.layout, step.stage.name, used):
                return used
        return key

    def line(self, step: str) -> str:
        """Whose record holds for a step: a variant's own from the stage it branches at, its parent's before."""
        return line_of_step(self.layout, self.ref, step, _ORDER).variant

    def _records(self) -> list[tuple[str, RoundRecord]]:
        """Each step and the record that holds for it, every record read once."""
        lines = [self.line(step) for step in _ORDER]
        found = {line: RoundRecord.load(self.layout, replace(self.ref, variant=line)) for line in dict.fromkeys(lines)}
        return [(step, found[line]) for step, line in zip(_ORDER, lines, strict=True)]

    @cached_property
    def _recorded(self) -> dict[str, StepRecord]:
        return {step: record.steps[step] for step, record in self._records() if step in record.steps}

    @cached_property
    def _retries(self) -> dict[str, list[str]]:
        return {step: record.retries[step] for step, record in self._records() if step in record.retries}

    @cached_property
    def draw_set(self) -> int:
        """Which set of draws this round uses; 0 the first."""
        return draw_set_of(self.layout, self.ref)

    @cached_property
    def independent_replay_count(self) -> int:
        """How many independent replays of each alternative this round's diagnosis may spend."""
        line = replace(self.ref, variant=self.line("independent_replay"))
        return RoundRecord.load(self.layout, line).independent_replays

    def _weights_identity(self, step: Step) -> dict[str, Any] | None:
        if step.stage.weights == "samples":
            return engine_identity(self.config.engine)
        return learner_identity(self.config) if step.stage.weights == "trains" else None

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The round's steps, as its configuration has them."""
        return round_steps(self.config)

    def steps_with(self, name: str) -> tuple[Step, ...]:
        """The list that the step of that name is in. ConfigError when the round has no such step."""
        if name in names(self.steps):
            return self.steps
        if name in names((*ABLATED_REPLAYS, *VALUES)):
            estimator = self.config.advantages.estimator
            asked = (
                "only ccpo asks for ablated replays"
                if name in names(ABLATED_REPLAYS)
                else "only learned values ask for it"
            )
            raise ConfigError(f"{name}: {asked}, and advantages.estimator is {estimator}")
        return steps_with(name)

    def walk(self, steps: tuple[Step, ...] | None = None, policy: PolicyVersion | None = None) -> Walk:
        """Follow the steps (default: the round's) as far as their results are there."""
        steps = self.steps if steps is None else steps
        walk = Walk(artifacts=self._given(steps))
        for step in steps:
            if any(name not in walk.artifacts for name in step.inputs):
                walk.unknown.append(step)
                continue
            look = self.look(step, walk.artifacts, policy)
            walk.looks.append(look)
            if look.artifact is not None:
                walk.artifacts[step.name] = look.artifact
        return walk

    def _given(self, steps: tuple[Step, ...]) -> dict[str, Artifact]:
        """The results of the round that steps beside it read, as far as they are there."""
        read = _read_beside(steps)
        return {name: artifact for name, artifact in self.walk().artifacts.items() if name in read} if read else {}

    def artifacts_beside(self, steps: tuple[Step, ...]) -> dict[str, Artifact]:
        """The results of the round that steps beside it read. StoreError naming what has to run first."""
        given = self._given(steps)
        missing = [name for name in names(self.steps) if name in _read_beside(steps) and name not in given]
        if missing:
            raise self._not_run(steps[-1].name, missing[0])
        return given

    def artifacts_before(
        self, name: str, steps: tuple[Step, ...] | None = None, policy: PolicyVersion | None = None
    ) -> dict[str, Artifact]:
        """The inputs of a step. StoreError naming what has to run first."""
        steps = self.steps if steps is None else steps
        step = next(step for step in steps if step.name == name)
        artifacts = self.walk(steps, policy).artifacts
        # in the order of the steps: the first of them is why those after it are not known
        before = names((*self.steps, *steps))
        missing = [other for other in before if other in step.inputs and other not in artifacts]
        if missing:
            raise self._not_run(name, missing[0])
        return artifacts

    def _not_run(self, name: str, missing: str) -> StoreError:
        return StoreError(
            f"{name} of round {self.round} needs {missing}, which has not run with this configuration; run "
            f"`c3 run iteration --run {self.run} --round {self.round}` or `c3 run stage {missing} "
            f"--run {self.run} --round {self.round}` first"
        )

    def record(self, step: Step, artifact: Artifact) -> None:
        """Point this round's step at its result."""
        self.__dict__.pop("_recorded", None)
        entry = StepRecord(artifact.stage, artifact.key, artifact.digest)
        question = None
        if step in INTERVENTION_STEPS:
            question = asdict(self.intervention) if self.intervention else {}
        if _steps_for(RoundRecord.load(self.layout, self.ref), question).get(step.name) != entry:
            with edit_round(self.layout, self.ref) as record:
                _steps_for(record, question)[step.name] = entry

    def record_retry(self, look: Look) -> None:
        """Ask for what is missing in a step's rewards to be graded again, from now on."""
        chain = self._retries.get(look.step.name, [])
        earlier = chain[: look.job.retry]  # what was asked for when the step had another key is forgotten
        self.__dict__.pop("_retries", None)
        with edit_round(self.layout, replace(self.ref, variant=self.line(look.step.name))) as record:
            record.retries[look.step.name] = [*earlier, look.key]

    def record_failure(self, step: Step, reason: str | None) -> None:
        """Remember why a step could not be made (for `c3 status`); None: it could."""
        try:
            if RoundRecord.load(self.layout, self.ref).failures.get(step.name) == reason:
                return
            with edit_round(self.layout, self.ref) as record:
                if reason is None:
                    record.failures.pop(step.name, None)
                else:
                    record.failures[step.name] = reason
        except StoreError:
            if reason is None:  # a disk that cannot take the note must not hide the error it is about
                raise
