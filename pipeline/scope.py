"""One round of one run, seen from outside Prefect: which keys its steps have and which results are there.

Everything here works without torch and without Prefect, so that a finished round is recognised at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, StoreError
from configs.load import build_config
from configs.schema import Config
from pipeline.steps import ROUND, Step, step_named
from stages.engines.make import base_digest, engine_identity
from stages.learners.identity import learner_identity
from stages.stage import Job, stage_key
from store import catalog
from store.artifacts import Artifact, find
from store.layout import COPY, IMPORTED, MAIN, Layout
from store.policies import PolicyVersion, initial_policy, policy_of
from store.variants import overrides_of, steps_of


@dataclass(frozen=True)
class Look:
    """What is known of a step before it runs."""

    step: Step
    job: Job
    key: str
    made_from: dict[str, Any]
    artifact: Artifact | None
    """The finished result, or None when it is still to be made."""


@dataclass(frozen=True)
class Scope:
    """A round of a run. Plain strings and numbers, so that it can be handed to a worker and read in its page."""

    store: Path
    run: str
    round: int
    variant: str = MAIN

    @property
    def layout(self) -> Layout:
        """Where its files lie."""
        return Layout(self.store)

    @cached_property
    def config(self) -> Config:
        """The configuration that holds for this round."""
        raw = catalog.recorded_config(self.layout, self.run, self.round)
        if raw is None:
            known = ", ".join(catalog.runs(self.layout)) or "none"
            raise ConfigError(
                f"run '{self.run}': not in {self.store} (there is {known}); start it with --config FILE_OR_PRESET"
            )
        overrides = overrides_of(self.layout, self.run, self.variant, self.round)
        return build_config(raw, overrides, where=f"run '{self.run}'")

    def under(self, config: Config) -> Scope:
        """The same round as it would be under another configuration, nothing recorded."""
        scope = Scope(self.store, self.run, self.round, self.variant)
        scope.__dict__["config"] = config
        return scope

    def has_predecessor(self) -> bool:
        """Whether the round before has run to its update (round 1 needs none)."""
        return self.round <= 1 or "update" in steps_of(self.layout, self.run, self.variant, self.round - 1)

    @cached_property
    def policy(self) -> PolicyVersion:
        """The frozen policy this round starts from: the update of the round before, or the untrained model."""
        return self._policy_of(self.round - 1)

    @cached_property
    def policy_after(self) -> PolicyVersion:
        """The policy this round ended with; of round 0 the untrained model."""
        return self._policy_of(self.round)

    def _policy_of(self, round: int) -> PolicyVersion:
        names = list(self.config.policies)
        base = base_digest(self.config.engine)
        if round == 0:
            return initial_policy(base, names)
        command = f"c3 run iteration --run {self.run} --round {round}"
        entry = steps_of(self.layout, self.run, self.variant, round).get("update")
        if entry is None:
            raise StoreError(
                f"run '{self.run}': the policy of round {round} is asked for, but that round has not run to its update; "
                f"run `{command}` first"
            )
        artifact = find(self.layout, entry["stage"], entry["key"])
        if artifact is None:
            raise StoreError(
                f"run '{self.run}': the policy of round {round} (update {entry['key'][:12]}) is missing or damaged; run "
                f"`{command}` to make it again"
            )
        return policy_of(artifact, base, names)

    def look(self, step: Step, inputs: Mapping[str, Artifact], policy: PolicyVersion | None = None) -> Look:
        """A step's key, from the digests of its inputs, and its result if that is there."""
        weights = policy or (self.policy if step.stage.weights else None)
        given = {name: inputs[name] for name in step.inputs}
        job = Job(self.config, self.round, given, weights, redraw=0 if policy else self.redraw)
        key, made_from = stage_key(step.stage, job, self._weights_identity(step))
        key = self._recorded_copy(step, key) if step is step_named(step.name) else key
        job = replace(job, output=self.layout.artifact(step.stage.name, key))
        return Look(step, job, key, made_from, find(self.layout, step.stage.name, key))

    def beside(self, look: Look) -> Look:
        """The same step, to be made again beside what is there."""
        base = look.key.partition(COPY)[0]
        number = 2
        while self.layout.artifact(look.step.stage.name, f"{base}{COPY}{number}").exists():
            number += 1
        key = f"{base}{COPY}{number}"
        job = replace(look.job, output=self.layout.artifact(look.step.stage.name, key))
        return Look(look.step, job, key, look.made_from, None)

    def _recorded_copy(self, step: Step, key: str) -> str:
        """The key, or that of the copy beside it which this round was told to use (`--from`, `c3 import`)."""
        entry = self._recorded.get(step.name)
        if entry is None or not (entry["key"].startswith(f"{key}{COPY}") or entry["key"].startswith(IMPORTED)):
            return key
        return entry["key"] if find(self.layout, entry["stage"], entry["key"]) else key

    @cached_property
    def _recorded(self) -> dict[str, dict[str, Any]]:
        return steps_of(self.layout, self.run, self.variant, self.round)

    @cached_property
    def redraw(self) -> int:
        """Which set of draws this round uses; 0 the first."""
        return catalog.recorded_redraw(self.layout, self.run, self.round, self.variant)

    def _weights_identity(self, step: Step) -> dict[str, Any] | None:
        if step.stage.weights == "samples":
            return engine_identity(self.config.engine)
        return learner_identity(self.config.engine) if step.stage.weights == "trains" else None

    def walk(self, steps: tuple[Step, ...] = ROUND, policy: PolicyVersion | None = None) -> Walk:
        """Follow the steps as far as their results are there."""
        walk = Walk()
        for step in steps:
            if any(name not in walk.artifacts for name in step.inputs):
                walk.unknown.append(step)
                continue
            look = self.look(step, walk.artifacts, policy)
            walk.looks.append(look)
            if look.artifact is not None:
                walk.artifacts[step.name] = look.artifact
        return walk

    def artifacts_before(
        self, name: str, steps: tuple[Step, ...] = ROUND, policy: PolicyVersion | None = None
    ) -> dict[str, Artifact]:
        """The inputs of a step. StoreError naming what has to run first."""
        step = step_named(name)
        artifacts = self.walk(steps, policy).artifacts
        missing = [needed for needed in step.inputs if needed not in artifacts]
        if missing:
            raise StoreError(
                f"{name} of round {self.round} needs {missing[0]}, which has not run with this configuration; run "
                f"`c3 run iteration --run {self.run} --round {self.round}` or `c3 run stage {missing[0]} "
                f"--run {self.run} --round {self.round}` first"
            )
        return artifacts

    def record(self, step: Step, artifact: Artifact) -> None:
        """Point this round's step at its result."""
        self.__dict__.pop("_recorded", None)
        entry = {"stage": artifact.stage, "key": artifact.key, "digest": artifact.digest}
        catalog.record_step(self.layout, self.run, self.round, self.variant, step.name, entry)

    def record_failure(self, step: Step, reason: str | None) -> None:
        """Remember why a step could not be made (for `c3 status`); None: it could."""
        try:
            catalog.record_failure(self.layout, self.run, self.round, self.variant, step.name, reason)
        except StoreError:
            if reason is None:  # a disk that cannot take the note must not hide the error it is about
                raise


@dataclass
class Walk:
    """How far a round has come."""

    looks: list[Look] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    unknown: list[Step] = field(default_factory=list)
    """Steps whose key is not known yet, because an input is still to be made."""

    @property
    def complete(self) -> bool:
        """Whether every step's result is there."""
        return not self.unknown and all(look.artifact is not None for look in self.looks)
