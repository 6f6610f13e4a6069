"""TensorBoard: an event file per round. A round that is logged again replaces its file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from pipeline.trackers.protocol import Figure, TrackedRun
from store.disk.atomic import writing


class TensorBoardTracker:
    """Write below a folder: `tensorboard --logdir FOLDER` shows it. Implements Tracker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def destination(self) -> str:
        """Return the folder."""
        return f"tensorboard {self._folder.resolve()}"

    def log(self, tracked: TrackedRun, log_key: str, figures: Sequence[Figure]) -> None:
        """Write one file named after the log_key, in place of an earlier one of that name."""
        folder = self._folder / tracked.run / tracked.variant
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for earlier in folder.glob(f"events.out.tfevents.*.{log_key}"):
                earlier.unlink()
            writer = EventFileWriter(str(folder), filename_suffix=f".{log_key}")
            for figure in figures:
                summary = scalar_pb(figure.name, figure.value)
                writer.add_event(Event(wall_time=time.time(), step=figure.at, summary=summary))
            writer.close()
