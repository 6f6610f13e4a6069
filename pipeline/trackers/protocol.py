"""What every tracker is: something that logs the figures of one finished round, or of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Figure:
    """Hold one number of a curve."""

    name: str
    """Curve: what, then whose where it is a role's ("loss/actor")."""
    value: float
    axis: Literal["step", "round"]
    at: int
    """Optimiser steps since the run began, or the round."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """Hold what a tracker calls a run: the main variant of one of ours, or another variant of it."""

    id: str
    """Stays with the run's records, so that one run name in two stores is two of a tracker's runs."""
    run: str
    variant: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Return the name it is shown by."""
        return f"{self.run}/{self.variant}"


class Tracker(Protocol):
    """Log figures. Raises StoreError when it cannot be reached."""

    @property
    def destination(self) -> str:
        """Return where it keeps what it logs. Trackers of equal destination count as one."""
        ...

    def log(self, tracked: TrackedRun, log_key: str, figures: Sequence[Figure]) -> None:
        """Log figures under a key ("round-00003"), in place of what was logged under it before where the library can forget."""
        ...
