"""Log the figures of what is finished to TensorBoard, W&B or MLflow where the configuration asks for it.

The tables are the truth and hold all of it. A round or an evaluation is logged once to each destination, whether it was
made just now or was there; again only when the rows behind it came out otherwise. A tracker that cannot be reached stops
nothing: the same command logs it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from configs.errors import ConfigError, StoreError
from configs.schema import Config
from pipeline.rounds.round import Round, load_round
from pipeline.trackers.protocol import Figure, TrackedRun, Tracker
from store.artifacts.artifact import Artifact, Row
from store.artifacts.step_timing import timed_steps
from store.disk.hashing import digest
from store.runs.tracker_state import logged_digest, record_logged, tracked_run_id

STEP_FIGURES = (
    "loss",
    "ratio_mean",
    "clipped_share",
    "kl",
    "entropy",
    "gradient_norm",
    "learning_rate",
    "tokens",
    "tokens_per_second",
)
"""Of the steps table, per role."""


def check_trackers(config: Config) -> None:
    """Raise ConfigError naming the extra when the library of a requested tracker is not installed."""
    for name in config.tracking.to:
        if find_spec(name) is None:
            raise ConfigError(
                f"tracking.to: '{name}' is not installed here; pip install 'c3-credit[{name}]', or take it out of tracking.to"
            )


def log_round(round: Round, artifacts: Mapping[str, Artifact], summary: Row | None, signal: Sequence[Row]) -> list[str]:
    """Log a round that has run to its update; return a line for each tracker that could not be reached."""
    if not round.config.tracking.to or "update" not in artifacts:
        return []
    before = sum(_steps_of(round, number) for number in range(1, round.ref.round))
    content = digest([before, {name: artifact.digest for name, artifact in artifacts.items()}])
    figures = _round_figures(round, before, artifacts["update"], summary, signal)
    return _log(round, f"round-{round.ref.round:05d}", content, figures)


def log_evaluation(round: Round, evaluations: Artifact, accuracy: float, truncated: int, unscored: int) -> list[str]:
    """Log the evaluation after a round; return a line for each tracker that could not be reached."""
    found: list[tuple[str, float]] = [("evaluation/truncated", truncated), ("evaluation/unscored", unscored)]
    if accuracy == accuracy:  # NaN: nothing could be graded
        found.append(("evaluation/accuracy", accuracy))
    figures = [Figure(name, value, "round", round.ref.round) for name, value in found]
    return _log(round, f"evaluation-{round.ref.round:05d}", evaluations.digest, figures)


def _log(round: Round, log_key: str, content: str, figures: Sequence[Figure]) -> list[str]:
    """Log figures to each destination that has not logged this content yet; return a line for each that could not.

    Content is compared, not figures: a sum's last bit may differ.
    """
    place = (round.layout, round.ref.run, round.ref.variant)
    unlogged = []
    for name in round.config.tracking.to:
        tracker = _tracker(name, round)
        if logged_digest(*place, tracker.destination, log_key) == content:
            continue
        tracked = TrackedRun(
            tracked_run_id(*place), round.ref.run, round.ref.variant, round.config.model_dump(mode="json")
        )
        try:
            tracker.log(tracked, log_key, figures)
        except StoreError as error:
            unlogged.append(f"{name} did not log {log_key}: {error}; run the same command again to log it")
            continue
        record_logged(*place, tracker.destination, log_key, content)
    return unlogged


def _round_figures(
    round: Round, before: int, update: Artifact, summary: Row | None, signal: Sequence[Row]
) -> list[Figure]:
    """`before`: optimiser steps of the rounds before this one."""
    figures = [
        Figure(f"{name}/{row['role']}", float(row[name]), "step", before + row["step"])
        for row in timed_steps(update)
        for name in STEP_FIGURES
        if row[name] is not None
    ]
    of_round = {f"round/{name}": value for name, value in (summary or {}).items()}
    of_round |= {f"engine_gap/{row['role']}": row["mean_mismatch"] for row in update.rows("logprob_mismatch")}
    for row in signal:
        of_round[f"groups/{row['role']}"] = row["groups"]
        of_round[f"groups_without_signal/{row['role']}"] = row["groups_without_signal"]
    found = [
        Figure(name, float(value), "round", round.ref.round) for name, value in of_round.items() if value is not None
    ]
    return figures + found


def _steps_of(round: Round, number: int) -> int:
    """Return the number of optimiser steps of an earlier round, as its configuration has them."""
    update = load_round(round.layout, replace(round.ref, round=number)).config.update
    return update.epochs * update.minibatches


def _tracker(name: str, round: Round) -> Tracker:
    config = round.config.tracking
    if name == "tensorboard":
        from pipeline.trackers.tensorboard import TensorBoardTracker

        folder = config.tensorboard_dir
        return TensorBoardTracker(round.layout.tensorboard if folder is None else Path(folder))
    if name == "mlflow":
        from pipeline.trackers.mlflow import MlflowTracker

        return MlflowTracker(config.mlflow_uri, config.project)
    from pipeline.trackers.wandb import WandbTracker

    return WandbTracker(config.project)
