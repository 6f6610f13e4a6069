"""What every tracker is: something that logs the figures of one finished round, or of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a curve."""

    name: str
    """Curve: what, then whose where it is a role's ("loss/actor")."""
    value: float
    axis: Literal["step", "round"]
    at: int
    """Optimiser steps since the run began, or the round."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """The main line of a run, or a variant of it: what a tracker calls a run."""

    id: str
    """Stays with the run's records, so that one run name in two stores is two of a tracker's runs."""
    run: str
    variant: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How it is shown."""
        return f"{self.run}/{self.variant}"


class Tracker(Protocol):
    """Log figures. Raises StoreError when it cannot be reached."""

    @property
    def destination(self) -> str:
        """Where it keeps what it logs: two with the same are one."""
        ...

    def log(self, tracked: TrackedRun, log_key: str, figures: Sequence[Figure]) -> None:
        """Log figures under a key ("round-00003"), in place of what was logged under it before where the library can forget."""
        ...
