"""What a stage is: a name, a version, the slice of config it reads, how it is cut, and how one part is made.

Stages never import each other. They are given a job (references in) and return an output (references out); the
pipeline wires them, and what they share is in the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from stages.base.inputs import Part
from stages.base.job import Job
from stages.base.resources import Resources
from store.artifacts.artifact import Row, StageOutput

J = TypeVar("J", bound=Job)


def _no_messages(job: Job) -> int:
    return 0


def _planned_spending(job: Job) -> list[Row]:
    return job.tree.spending()


@dataclass(frozen=True)
class Stage(Generic[J]):
    """Declare a stage. Raise `version` by hand when the meaning of its rows changes, never for a refactoring."""

    name: str
    version: int
    tables: tuple[str, ...]
    """What it writes: each of these tables is checked, also when not a row of it was written."""
    config_slice: Callable[[J], dict[str, Any]]
    """The values it reads, and nothing else: they are its part of the key."""
    cut: Callable[[J], Sequence[Part]]
    make: Callable[[Part, J, Resources], StageOutput]
    messages: Callable[[J], int] = _no_messages
    """Messages it will generate in all, for the progress bar."""
    sequential: bool = False
    """Whether each part continues the one before it."""
    spending: Callable[[J], list[Row]] = _planned_spending
    """What its checks hold it to, per role of one problem (schema: store.artifacts.schemas.SPENDING)."""
    weights: Literal["samples", "trains"] | None = None
    """What it does with the policy: nothing, "samples" (the engine's identity is in the key) or "trains"."""
    job_type: type[Job] = Job
    """What it is asked with; a type of its own where it needs more of a round than the others."""
