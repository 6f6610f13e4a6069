"""MLflow: one of its runs per variant of a run, found again by a tag."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from configs.errors import StoreError
from pipeline.trackers.protocol import Figure, TrackedRun

_TAG = "c3_run"
_METRICS, _PARAMETERS, _LONGEST = 1000, 100, 500
"""Metrics and parameters that one request may hold, and characters of a parameter that every MLflow takes."""


class MlflowTracker:
    """Log metrics under `step` (optimiser step or round), and the first round's configuration as parameters, which MLflow
    lets nobody change. Implements Tracker."""

    def __init__(self, uri: str | None, experiment: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = experiment

    @property
    def destination(self) -> str:
        """Return server or database, and experiment."""
        return f"mlflow {self._client.tracking_uri} {self._experiment}"

    def log(self, tracked: TrackedRun, log_key: str, figures: Sequence[Figure]) -> None:
        """Log metrics. A metric logged twice shows its later value in MLflow, which keeps both."""
        try:
            run = self._run_of(tracked)
            now = int(time.time() * 1000)
            metrics = [Metric(figure.name, figure.value, now, figure.at) for figure in figures]
            for start in range(0, len(metrics), _METRICS):
                self._client.log_batch(run, metrics=metrics[start : start + _METRICS])
            self._client.set_terminated(run)
        except MlflowException as error:
            raise StoreError(f"MLflow: {_one_line(error)}") from error

    def _run_of(self, tracked: TrackedRun) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment)
        within = experiment.experiment_id if experiment else self._client.create_experiment(self._experiment)
        found = self._client.search_runs([within], f"tags.{_TAG} = '{tracked.id}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        run = str(self._client.create_run(within, run_name=tracked.name, tags={_TAG: tracked.id}).info.run_id)
        parameters = [Param(key, value[:_LONGEST]) for key, value in _flat(tracked.config)]
        for start in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(run, params=parameters[start : start + _PARAMETERS])
        return run


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted keys; a list of named tables (roles) is entered by name."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _flat(below, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and all(isinstance(entry, Mapping) and "name" in entry for entry in value):
        for entry in value:
            yield from _flat(entry, f"{path}.{entry['name']}")
    else:
        yield path, str(value)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
