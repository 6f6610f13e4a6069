"""What is known of a step, and of a round's steps, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.steps import Step
from stages.base.job import Job
from store.artifacts.artifact import Artifact


@dataclass(frozen=True)
class Look:
    """What is known of a step before it runs."""

    step: Step
    job: Job
    key: str
    cache_key_inputs: dict[str, Any]
    artifact: Artifact | None
    """The finished result, or None when it is still to be made."""
    requested_by: Mapping[str, Any] = field(default_factory=dict)
    """run, round and variant that ask for it: its manifest says whom it was made for."""
    awaited: bool = False
    """Whether it is still to be made and a retry of it was asked for: the step is not done with it."""


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
