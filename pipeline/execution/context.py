"""What a command works with: resources, progress, caps, and how many parts are made side by side."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Protocol

from configs.errors import C3Error
from configs.schema import Config, WorkersConfig
from pipeline.execution.limits import Limits
from stages.base.resources import Resources


class Progress(Protocol):
    """Show how far a step has come."""

    def start(self, step: str, total: int) -> None:
        """Begin a step that will take `total` messages (0: not counted)."""
        ...

    def advance(self, count: int) -> None:
        """Add `count` finished messages."""
        ...

    def finish(self) -> None:
        """End the step."""
        ...


class NullProgress:
    """Show nothing."""

    def start(self, step: str, total: int) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


@lru_cache(maxsize=1)
def process_resources() -> Resources:
    """Return this process's resources: there is one set, because a model is loaded once per process."""
    return Resources()


class ExecutionContext:
    """Carry what one command works with. It is passed down; only the resources belong to the process."""

    def __init__(
        self,
        progress: Progress | None = None,
        limits: Limits | None = None,
        workers: WorkersConfig | None = None,
        resources: Resources | None = None,
    ) -> None:
        """`resources`: by default this process's, which report finished messages to this context from now on."""
        self.progress = progress or NullProgress()
        self.limits = limits or Limits()
        self.workers = workers or WorkersConfig()
        self.resources = resources or process_resources()
        self.resources.on_message = self._advance
        self._advancing = threading.Lock()  # parts may be made side by side, a terminal has one bar
        self._loading: threading.Thread | None = None

    def _advance(self, count: int) -> None:
        with self._advancing:
            self.progress.advance(count)

    @property
    def is_remote(self) -> bool:
        """Whether parts are made in other processes, which have resources of their own."""
        return self.workers.runner != "threads"

    def load_ahead(self, config: Config) -> None:
        """Load the engine's model in the background, while a server starts."""
        if self._loading is None and not self.is_remote:
            self._loading = threading.Thread(target=self._load, args=(config,), daemon=True)
            self._loading.start()

    def _load(self, config: Config) -> None:
        try:
            self.resources.load_engine(config)
        except C3Error:
            return  # the stage that needs the engine will meet the same error where it can be reported

    def ready(self) -> Resources:
        """Return the resources, once any loading ahead is over."""
        loading = self._loading  # parts made side by side all come here
        if loading is not None:
            loading.join()
            self._loading = None
        return self.resources
