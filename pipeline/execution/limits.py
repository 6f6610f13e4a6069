"""Caps on what a command may spend."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from configs.errors import LimitReachedError


class Limits:
    """Caps on what a command may spend. They are looked at between parts, so a stop is always at a part's end."""

    def __init__(self, seconds: float | None = None, evaluations: int | None = None) -> None:
        self._seconds = seconds
        self._evaluations = evaluations
        self._started = time.monotonic()
        self._spent = 0
        self._counting = threading.Lock()  # parts may be made side by side

    @property
    def seconds_left(self) -> float | None:
        """Until the cap on time is reached; None when there is none."""
        return None if self._seconds is None else self._seconds - (time.monotonic() - self._started)

    def check(self) -> None:
        """Raise LimitReachedError when a cap is reached."""
        elapsed = time.monotonic() - self._started
        if self._seconds is not None and elapsed >= self._seconds:
            raise LimitReachedError(f"stopped after {elapsed:.0f} s, as --max-seconds {self._seconds:g} asks; {GO_ON}")
        if self._evaluations is not None and self._spent >= self._evaluations:
            raise LimitReachedError(
                f"stopped after {self._spent} terminal evaluations, as --max-evaluations {self._evaluations} asks; {GO_ON}"
            )

    def add(self, stage: str, usage: Mapping[str, int]) -> None:
        """Count what a part spent: an evaluation is spent where the evaluator runs."""
        if stage == "grade":
            with self._counting:
                self._spent += usage.get("evaluations", 0)


GO_ON = "what is finished is kept, and the same command goes on from there"
