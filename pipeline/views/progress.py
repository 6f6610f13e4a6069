"""Progress bars."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_SHOW_AFTER_SECONDS = 2.0


class RateColumn(ProgressColumn):
    """Finished units per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, empty until there is one."""
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


class ProgressBars:
    """A progress bar per step that takes longer than two seconds: done, rate, time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._started = 0.0
        self._step = ""
        self._total = 0
        self._done = 0

    def start(self, step: str, total: int) -> None:
        """Begin a step of `total` messages or rows; 0: not known."""
        self._started, self._step, self._total, self._done = time.monotonic(), step, total, 0

    def advance(self, count: int) -> None:
        """Count so many more messages or rows as done."""
        self._done += count
        if self._bar is None:
            if time.monotonic() - self._started < _SHOW_AFTER_SECONDS or not self._console.is_terminal:
                return
            self._bar = Progress(
                TextColumn("{task.description:>10}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                RateColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.add_task(self._step, total=self._total or None)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._done)

    def finish(self) -> None:
        """End the step, and take its bar off the screen."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
