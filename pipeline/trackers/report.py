"""Tracking: the figures of what is finished, told to TensorBoard, W&B or MLflow where the configuration asks for it.

The tables are the truth and hold all of it. A chapter (a round, an evaluation) is told once to each destination, whether it
was made just now or was there; again only when the rows behind it came out otherwise. A tracker that cannot be told stops
nothing: the same command tells it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from configs.errors import ConfigError, StoreError
from configs.schema import Config
from pipeline.rounds.round import Round, load_round
from pipeline.trackers.protocol import Figure, Line, Tracker
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
    """ConfigError naming the extra when the library of a tracker that is asked for is not installed."""
    for name in config.tracking.to:
        if find_spec(name) is None:
            raise ConfigError(
                f"tracking.to: '{name}' is not installed here; pip install 'c3-credit[{name}]', or take it out of tracking.to"
            )


def log_round(round: Round, artifacts: Mapping[str, Artifact], summary: Row | None, signal: Sequence[Row]) -> list[str]:
    """Tell of a round that has run to its update: a line for each tracker that could not be told."""
    if not round.config.tracking.to or "update" not in artifacts:
        return []
    before = sum(_steps_of(round, number) for number in range(1, round.ref.round))
    content = digest([before, {name: artifact.digest for name, artifact in artifacts.items()}])
    figures = _round_figures(round, before, artifacts["update"], summary, signal)
    return _tell(round, f"round-{round.ref.round:05d}", content, figures)


def log_evaluation(round: Round, evaluations: Artifact, accuracy: float, truncated: int, unscored: int) -> list[str]:
    """Tell of the evaluation after a round."""
    found: list[tuple[str, float]] = [("evaluation/truncated", truncated), ("evaluation/unscored", unscored)]
    if accuracy == accuracy:  # NaN: nothing could be graded
        found.append(("evaluation/accuracy", accuracy))
    figures = [Figure(name, value, "round", round.ref.round) for name, value in found]
    return _tell(round, f"evaluation-{round.ref.round:05d}", evaluations.digest, figures)


def _tell(round: Round, chapter: str, content: str, figures: Sequence[Figure]) -> list[str]:
    """Each destination that was not told of this content yet. Content, not figures: a sum's last bit may differ."""
    place = (round.layout, round.ref.run, round.ref.variant)
    untold = []
    for name in round.config.tracking.to:
        tracker = _tracker(name, round)
        if logged_digest(*place, tracker.destination, chapter) == content:
            continue
        line = Line(tracked_run_id(*place), round.ref.run, round.ref.variant, round.config.model_dump(mode="json"))
        try:
            tracker.tell(line, chapter, figures)
        except StoreError as error:
            untold.append(f"{name} was not told of {chapter}: {error}; run the same command again to tell it")
            continue
        record_logged(*place, tracker.destination, chapter, content)
    return untold


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
    """Optimiser steps of an earlier round, as its configuration has them."""
    update = load_round(round.layout, replace(round.ref, round=number)).config.update
    return update.epochs * update.minibatches


def _tracker(name: str, round: Round) -> Tracker:
    config = round.config.tracking
    if name == "tensorboard":
        from pipeline.trackers.tensorboard import TensorBoardTracker

        asked = config.tensorboard_dir
        return TensorBoardTracker(round.layout.tensorboard if asked is None else Path(asked))
    if name == "mlflow":
        from pipeline.trackers.mlflow import MlflowTracker

        return MlflowTracker(config.mlflow_uri, config.project)
    from pipeline.trackers.wandb import WandbTracker

    return WandbTracker(config.project)
