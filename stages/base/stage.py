"""What a stage is: a name, a version, the slice of config it reads, how it is cut, and how one part is made.

Stages never import each other. They are given a job (refs in) and hand over a product (refs out); the pipeline wires
them, and what they share is in the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stages.base.job import Job, Part
from stages.base.resources import Resources
from store.artifacts.artifact import Row, StageOutput


@dataclass(frozen=True)
class Stage:
    """A stage's declaration. Raise `version` by hand when its meaning changes, never for a refactoring."""

    name: str
    version: int
    tables: tuple[str, ...]
    """What it writes: each of these tables is checked, also when not a row of it was written."""
    config_slice: Callable[[Job], dict[str, Any]]
    """The values it reads, and nothing else: they are its part of the key."""
    cut: Callable[[Job], Sequence[Part]]
    make: Callable[[Part, Job, Resources], StageOutput]
    messages: Callable[[Job], int] = lambda job: 0
    """Messages it will generate in all, for the progress bar."""
    sequential: bool = False
    """Whether each part continues the one before it."""
    spending: Callable[[Job], list[Row]] = lambda job: job.tree.spending()
    """What its checks hold it to, per role of one problem (schema: store.queries.connection.SPENDING)."""
    weights: str | None = None
    """What it does with the policy: None, "samples" (the engine's identity is in the key) or "trains"."""
