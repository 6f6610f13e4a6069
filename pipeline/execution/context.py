"""The process's tools and progress display. One per process, because a model is loaded once per process."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Protocol

from configs.errors import C3Error
from configs.schema import Config, WorkersConfig
from pipeline.execution.limits import Limits
from stages.base.resources import Resources


class Progress(Protocol):
    """What shows how far a step has come."""

    def start(self, step: str, total: int) -> None:
        """A step begins that will take `total` messages (0: not counted)."""
        ...

    def advance(self, count: int) -> None:
        """So many more are done."""
        ...

    def finish(self) -> None:
        """The step is over."""
        ...


class NullProgress:
    """Shows nothing."""

    def start(self, step: str, total: int) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class Workbench:
    """Tools, the progress that hears of finished messages, the caps, and how many parts are made side by side."""

    def __init__(self) -> None:
        self.progress: Progress = NullProgress()
        self.resources = Resources(self._advance)
        self._advancing = threading.Lock()  # parts may be made side by side, a terminal has one bar
        self.limits = Limits()
        self.workers = WorkersConfig()
        self._loading: threading.Thread | None = None

    def _advance(self, count: int) -> None:
        with self._advancing:
            self.progress.advance(count)

    @property
    def far(self) -> bool:
        """Whether parts are made in other processes, which have workbenches of their own."""
        return self.workers.runner != "threads"

    def load_ahead(self, config: Config) -> None:
        """Load the engine's model in the background, while a server starts."""
        if self._loading is None and not self.far:
            self._loading = threading.Thread(target=self._load, args=(config,), daemon=True)
            self._loading.start()

    def _load(self, config: Config) -> None:
        try:
            self.resources.load_engine(config)
        except C3Error:
            return  # the stage that needs the engine will meet the same error where it can be reported

    def ready(self) -> Resources:
        """The tools, once any loading ahead is over."""
        loading = self._loading  # parts made side by side all come here
        if loading is not None:
            loading.join()
            self._loading = None
        return self.resources


@lru_cache(maxsize=1)
def workbench() -> Workbench:
    """This process's workbench."""
    return Workbench()
