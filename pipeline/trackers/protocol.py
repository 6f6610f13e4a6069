"""What every tracker is: told the figures of one finished round, or of one evaluation."""

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
class Line:
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
    """Raises StoreError when it cannot be told."""

    @property
    def destination(self) -> str:
        """Where it keeps what it is told: two with the same are one."""
        ...

    def tell(self, line: Line, chapter: str, figures: Sequence[Figure]) -> None:
        """Keep a chapter ("round-00003"), in place of what was told of it before where the library can forget."""
        ...
