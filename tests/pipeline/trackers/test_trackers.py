"""Trackers: each is read back with its own library, and holds the figures of the tables; nothing is logged twice."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.errors import ConfigError
from configs.problems import ScriptedProblems
from configs.schema import EvaluateConfig, TrackingConfig
from configs.training import UpdateConfig
from pipeline.commands import run as commands
from pipeline.steps import EVALUATION
from pipeline.trackers.report import STEP_FIGURES
from store.artifacts.step_timing import timed_steps
from store.disk.layout import Layout
from store.queries.catalog_views import fetch, query
from store.runs.records import record_config
from tests.support.rounds import PlayedRound, configured, drive, session_of
from tests.support.worlds import duo

UPDATE = UpdateConfig(minibatches=2)
Played = Callable[[str, str], PlayedRound]
Curves = Mapping[str, Mapping[int, float]]
"""Name -> step or round -> value."""


def _played(store: Path, rounds: int = 2, **tracking: Any) -> list[PlayedRound]:
    """Return finished rounds, requested again as a command does: nothing is made, and they are logged."""
    config = duo(update=UPDATE, tracking=TrackingConfig(**tracking))
    ran = [drive(store, config, round=number) for number in range(1, rounds + 1)]
    for round in ran:
        assert commands.run_iteration(round.session).unlogged == []
    return ran


def _expected(rounds: list[PlayedRound]) -> Curves:
    """Return what the tables say, by the names of the curves."""
    curves: dict[str, dict[int, float]] = {}
    for number, round in enumerate(rounds):
        for row in timed_steps(round.artifacts["update"]):
            for name in STEP_FIGURES:
                if row[name] is not None:
                    curves.setdefault(f"{name}/{row['role']}", {})[2 * number + row["step"]] = row[name]
        rewards = [row["reward"] for row in round.rows("rewards")]
        curves.setdefault("round/mean_reward", {})[number + 1] = sum(rewards) / len(rewards)
    return curves


def _assert_logged(found: Curves, rounds: list[PlayedRound]) -> None:
    for name, curve in _expected(rounds).items():
        assert found[name] == {at: pytest.approx(value, rel=1e-6) for at, value in curve.items()}, name


def _tensorboard(folder: Path) -> Curves:
    """Return what TensorBoard's own reader finds; values are float32 there."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    reader.Reload()
    return {
        name: {event.step: float(event.tensor_proto.float_val[0]) for event in reader.Tensors(name)}
        for name in reader.Tags()["tensors"]
    }


def test_tensorboard_shows_every_figure_of_every_step_and_role(store: Path) -> None:
    rounds = _played(store, to=("tensorboard",))
    found = _tensorboard(store / "tensorboard/test/main")
    _assert_logged(found, rounds)
    for figure in ("loss", "ratio_mean", "clipped_share", "kl", "entropy", "gradient_norm", "tokens_per_second"):
        # two minibatches a round: the second round's steps go on from the first's
        assert set(found[f"{figure}/actor"]) == {1, 2, 3, 4}, figure
    assert set(found["groups_without_signal/actor"]) == {1, 2}


def test_a_round_is_logged_once_and_again_only_where_its_figures_differ(store: Path) -> None:
    [round] = _played(store, rounds=1, to=("tensorboard",))
    folder = store / "tensorboard/test/main"
    [before] = folder.iterdir()
    commands.run_iteration(round.session)
    assert list(folder.iterdir()) == [before]
    again = drive(store, round.config.model_copy(update={"update": UpdateConfig(minibatches=1)}))
    commands.run_iteration(again.session)
    [after] = folder.iterdir()
    assert after != before and after.name.endswith(".round-00001")
    assert set(_tensorboard(folder)["loss/actor"]) == {1}


def test_tracking_that_is_requested_later_logs_rounds_that_were_there(store: Path) -> None:
    [round] = _played(store, rounds=1)
    assert not (store / "tensorboard").exists()
    assert "tracked.json" not in {path.name for path in store.rglob("*")}
    _assert_logged(_logged_again(store, round, to=("tensorboard",)), [round])


def _logged_again(store: Path, round: PlayedRound, **tracking: Any) -> Curves:
    config = round.config.model_copy(update={"tracking": TrackingConfig(**tracking)})
    record_config(Layout(store), "test", 1, config.model_dump(mode="json"))
    commands.run_iteration(session_of(store, "test", 1))
    return _tensorboard(store / "tensorboard/test/main")


def test_an_evaluation_is_logged_at_its_round(store: Path) -> None:
    tracking = TrackingConfig(to=("tensorboard",))
    heldout = EvaluateConfig(problems=ScriptedProblems(count=3, seed=9))
    config = duo(update=UPDATE, tracking=tracking, evaluate=heldout)
    round = drive(store, config)
    drive(store, config, steps=EVALUATION)
    result = commands.run_evaluation(round.session)
    [file] = (store / "tensorboard/test/main").iterdir()
    assert file.name.endswith(".evaluation-00001")
    assert _tensorboard(file.parent) == {
        "evaluation/accuracy": {1: pytest.approx(result.accuracy)},
        "evaluation/truncated": {1: 0.0},
        "evaluation/unscored": {1: 0.0},
    }


def test_a_tracker_that_cannot_be_reached_stops_nothing_and_logs_later(store: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    config = duo(update=UPDATE, tracking=TrackingConfig(to=("tensorboard",), tensorboard_dir=str(tmp_path / "taken")))
    round = drive(store, config)
    [line] = commands.run_iteration(round.session).unlogged
    assert line.startswith("tensorboard did not log round-00001: ") and str(tmp_path / "taken") in line
    assert line.endswith("run the same command again to log it")
    (tmp_path / "taken").unlink()
    assert commands.run_iteration(round.session).unlogged == []
    _assert_logged(_tensorboard(tmp_path / "taken/test/main"), [round])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_named_before_anything_is_recorded(
    name: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say that a module cannot be imported
    with pytest.raises(ConfigError, match=rf"'{name}' is not installed here; pip install 'c3-credit\[{name}\]'"):
        configured(store, "test", 1, "scripted-duo", f"tracking.to=['{name}']")
    assert not store.exists()


def test_the_steps_table_says_how_fast_a_step_went(played: Played) -> None:
    round = played("duo", "tree")
    rows = timed_steps(round.artifacts["update"])
    assert all(row["seconds"] > 0 for row in rows)
    assert [row["tokens_per_second"] for row in rows] == [row["tokens"] / row["seconds"] for row in rows]
    asked = "select step, role, seconds, tokens_per_second from steps order by step, role"
    keys = ("step", "role", "seconds", "tokens_per_second")
    assert fetch(query(round.layout, asked)) == sorted(tuple(row[name] for name in keys) for row in rows)


def test_a_step_that_was_not_timed_has_no_pace(played: Played) -> None:
    update = played("duo", "tree").artifacts["update"]
    parts = [
        {name: value for name, value in part.items() if name != "step_timing"} for part in update.manifest["parts"]
    ]
    untimed = replace(update, manifest={**update.manifest, "parts": parts})
    assert {(row["seconds"], row["tokens_per_second"]) for row in timed_steps(untimed)} == {(None, None)}


@pytest.mark.slow
def test_mlflow_holds_the_same_curves(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra: pip install 'c3-credit[mlflow]'")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    rounds = _played(store, to=("mlflow",), mlflow_uri=uri, project="team")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("team")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    found = {
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        for name in run.data.metrics
    }
    _assert_logged(found, rounds)
    assert (run.info.run_name, run.info.status) == ("test/main", "FINISHED")
    assert run.data.params["update.minibatches"] == "2" and run.data.params["roles.actor.policy"] == "team"


@pytest.mark.slow
def test_wandb_holds_the_same_curves_offline(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra: pip install 'c3-credit[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    rounds = _played(store, to=("wandb",))
    found: dict[str, dict[int, float]] = {}
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1  # both rounds are one run of W&B's
    for path in files:
        for row in _history(path):
            for name, value in row.items():
                if "/" in name:
                    found.setdefault(name, {})[row["step" if "step" in row else "round"]] = value
    _assert_logged(found, rounds)


def _history(path: Path) -> list[dict[str, Any]]:
    """The logged rows of one of W&B's own files."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in _log_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _log_records(data: bytes) -> Iterator[bytes]:
    """W&B keeps LevelDB's log format: blocks of 32 KiB; before each piece its checksum, length and kind (1 whole, 2 first, 3
    middle, 4 last)."""
    at, record = 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""
