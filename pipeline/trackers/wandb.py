"""Weights & Biases: one of its runs per variant of a run, continued from round to round."""

from __future__ import annotations

from collections.abc import Sequence

import wandb

from configs.errors import StoreError
from pipeline.trackers.protocol import Figure, TrackedRun


class WandbTracker:
    """Log to a project; WANDB_MODE, WANDB_ENTITY and the like hold as W&B reads them. Implements Tracker."""

    def __init__(self, project: str) -> None:
        self._project = project

    @property
    def destination(self) -> str:
        """Return the project."""
        return f"wandb {self._project}"

    def log(self, tracked: TrackedRun, log_key: str, figures: Sequence[Figure]) -> None:
        """Log each figure over its own axis. Of a figure logged twice W&B keeps both points."""
        try:
            run = wandb.init(
                project=self._project,
                id=tracked.id,
                name=tracked.name,
                config=dict(tracked.config),
                allow_val_change=True,
                resume="allow",
                settings=wandb.Settings(console="off", silent=True),
            )
            for axis in ("step", "round"):
                run.define_metric(axis, hidden=True)
            for name, axis in dict.fromkeys((figure.name, figure.axis) for figure in figures):
                run.define_metric(name, step_metric=axis)
            for axis, at in dict.fromkeys((figure.axis, figure.at) for figure in figures):
                here = {figure.name: figure.value for figure in figures if (figure.axis, figure.at) == (axis, at)}
                run.log({axis: at, **here})
            run.finish()
        except wandb.Error as error:
            raise StoreError(f"W&B: {' '.join(str(error).split())[:300] or type(error).__name__}") from error
