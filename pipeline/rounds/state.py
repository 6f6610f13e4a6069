"""What is known of a step, and of a round's steps, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.steps import Step
from stages.base.job import Job
from store.artifacts.artifact import Artifact


@dataclass(frozen=True)
class StepState:
    """Describe a step whose inputs are there: its job, its key, and its result if that is there too."""

    step: Step
    job: Job
    key: str
    cache_key_inputs: dict[str, Any]
    """What the key was made from."""
    artifact: Artifact | None
    """The finished result, or None when it is still to be made."""
    requested_by: Mapping[str, Any] = field(default_factory=dict)
    """run, round and variant that request it: its manifest says whom it was created for."""
    retry_pending: bool = False
    """Whether it is still to be made and a retry of it was requested: the step is not done with it."""


@dataclass
class RoundState:
    """Say how far a list of steps has come."""

    steps: list[StepState] = field(default_factory=list)
    """The steps whose inputs are there, in order."""
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    """Results by step; those of other lists that the steps read are among them."""
    unknown: list[Step] = field(default_factory=list)
    """Steps whose key is not known yet, because an input is still to be made."""

    @property
    def complete(self) -> bool:
        """Whether every step's result is there."""
        return not self.unknown and all(state.artifact is not None for state in self.steps)

    def of(self, name: str) -> StepState | None:
        """Return the state of the step of that name; None when its key is not known."""
        return next((state for state in self.steps if state.step.name == name), None)
