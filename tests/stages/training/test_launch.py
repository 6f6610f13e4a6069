"""Several processes for one update: they do what one does, but for rounding, and fail as one fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from configs.engines import TransformersEngineConfig
from configs.errors import ConfigError, UpdateError
from configs.training import KlConfig, PolicyConfig, UpdateConfig
from pipeline.commands.run import run_iteration
from pipeline.steps import step_named
from stages.base.inputs import Part
from stages.base.job import Job
from stages.learners.protocol import Learner, TrainRow
from stages.runtime.device import gpu_count
from stages.training.launch import train_together
from stages.training.process_group import ProcessGroup, shares
from store.artifacts.artifact import StageOutput
from store.artifacts.step_timing import timed_steps
from tests.conftest import ROOT
from tests.support.rounds import PlayedRound, configured, drive, under
from tests.support.tiny_models import LETTERS, TARGETS, write_tiny_model
from tests.support.worlds import duo

POLICY = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS["llama"])


def _row(number: int, context: int, tokens: int) -> TrainRow:
    return TrainRow(f"d{number}", "team", tuple(range(context)), (1,) * tokens, 1.0)


def test_contexts_are_dealt_whole_the_longest_first_to_whoever_has_least_to_do() -> None:
    # contexts of 9, 5, 4 and 2 tokens with messages of 1, 2, 2 and 1 + 1: costs 10, 7, 6 and 4
    rows = [_row(0, 2, 1), _row(1, 9, 1), _row(2, 5, 2), _row(3, 2, 1), _row(4, 4, 2)]
    # 10 -> first; 7 -> second; 6 -> second (7 < 10); 4 -> first (10 < 13)
    assert shares(rows, 2) == [[rows[0], rows[1], rows[3]], [rows[2], rows[4]]]
    assert shares(rows, 1) == [rows]


def test_a_process_may_be_left_without_rows() -> None:
    rows = [_row(0, 3, 1), _row(1, 3, 2)]
    assert shares(rows, 3) == [rows, [], []]
    assert shares([], 2) == [[], []]


def test_more_processes_than_gpus_are_refused_before_anything_is_sampled(store: Path) -> None:
    wanted = (gpu_count() or 0) + 2
    overrides = ["engine.device=cuda", f"update.processes={wanted}"]
    session = configured(store, "test", 1, "arithmetic-duo", *overrides)
    with pytest.raises(ConfigError, match=rf"update.processes: {wanted}, but this machine has {wanted - 2} GPUs"):
        run_iteration(session)
    assert not list(store.glob("artifacts/*/*"))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> PlayedRound:
    """A round of a tiny model, whose words are letters, up to its update."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model"))
    roles = tuple(
        role.model_copy(update={"policy": role.name, "max_new_tokens": tokens})
        for role, tokens in zip(duo().roles, (5, 1), strict=True)
    )
    config = duo(
        engine=TransformersEngineConfig(model=str(folder), dtype="float32", device="cpu", threads=1),
        roles=roles,
        policies={role.name: POLICY for role in roles},
        words=tuple(LETTERS[:26]),
    )
    return drive(tmp_path_factory.mktemp("sampled"), config, until="advantages")


def _updated(sampled: PlayedRound, **update: Any) -> tuple[PlayedRound, dict[str, torch.Tensor]]:
    """The round with this update, and the weights it ended with."""
    ran = drive(sampled.store, sampled.config.model_copy(update={"update": UpdateConfig(**update)}))
    last = ran.artifacts["update"].parts()[-1]
    assert {path.name for path in last.iterdir()} >= {"weights", "optimizer", "steps.parquet", "part.json"}
    found = {}
    for policy in sampled.config.policies:
        tensors = load_file(last / "weights" / policy / "adapter_model.safetensors")
        found |= {f"{policy}.{name}": tensor for name, tensor in tensors.items()}
    return ran, found


@pytest.mark.slow
def test_two_processes_give_the_update_of_one(sampled: PlayedRound) -> None:
    # every figure to 1e-4, and the weights: how far the two ends are apart to 1e-4 of the way that was gone (6e-6 was
    # measured). Two parts, so that the second goes on from the weights and the optimiser's state that two processes wrote.
    before = copytree(sampled.store, sampled.store.with_name("before"))
    settings = {"epochs": 2, "minibatches": 2, "checkpoint_steps": 2, "kl": KlConfig(coefficient=0.1)}
    _, start = _updated(sampled, **settings, learning_rate=1e-12)
    (alone, one), (together, two) = (_updated(sampled, **settings, processes=count) for count in (1, 2))
    assert len(together.artifacts["update"].parts()) == 2
    for row, other in zip(alone.rows("steps"), together.rows("steps"), strict=True):
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        assert other == row | {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in figures.items()}
    for row, other in zip(alone.rows("update_rows"), together.rows("update_rows"), strict=True):
        assert row["skipped"] is other["skipped"] is None
        assert other["policy_logprobs"] == pytest.approx(row["policy_logprobs"], abs=1e-5)
    gone = _distance(one, start)
    assert gone > 0.01
    assert _distance(one, two) < 1e-4 * gone
    assert {row["step"] for row in timed_steps(together.artifacts["update"]) if row["seconds"]} == {1, 2, 3, 4}
    again = drive(before, together.config)
    assert again.made == ["update"]
    assert again.artifacts["update"].digest == together.artifacts["update"].digest


def _distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(sum((tensor - other[name]).square().sum() for name, tensor in one.items()) ** 0.5)


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said_as_if_there_were_one(sampled: PlayedRound) -> None:
    said = []
    for count in (1, 2):
        with pytest.raises(UpdateError) as raised:
            _updated(sampled, max_logprob_mismatch=1e-12, processes=count)
        said.append(str(raised.value))
    assert said[0] == said[1] and "past update.max_logprob_mismatch = 1e-12; no policy version was written" in said[0]


def _dies(part: Part, job: Job, learner: Learner, group: ProcessGroup) -> StageOutput:
    os._exit(9)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_update(sampled: PlayedRound) -> None:
    config = sampled.config.model_copy(update={"update": UpdateConfig(processes=2)})
    job = under(sampled.resolver, config).resolve(step_named("update"), sampled.artifacts).job
    with pytest.raises(UpdateError, match=r"update: one of 2 processes failed: process \d terminated with exit code 9"):
        train_together(_dies, Part(0), job)


LINGERING = """
import signal
import sys
from pathlib import Path
from pipeline.steps import step_named
from stages.training.launch import train_together
from stages.base.stage import Part
from tests.support.rounds import (drive)
from tests.stages.training.test_launch import UpdateConfig, duo, lingers

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script, and inherited
    ran = drive(Path(sys.argv[1]), duo(update=UpdateConfig(processes=2)), until="advantages")
    train_together(lingers, Part(0), ran.resolver.resolve(step_named("update"), ran.artifacts).job)
"""


def lingers(part: Part, job: Job, learner: Learner, group: ProcessGroup) -> StageOutput:
    job.output.mkdir(parents=True, exist_ok=True)
    (job.output.parent / f"process-{os.getpid()}").touch()
    time.sleep(600)
    raise AssertionError("outlived")


@pytest.mark.slow
def test_processes_do_not_outlive_a_command_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "lingering.py").write_text(LINGERING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = subprocess.Popen([sys.executable, "lingering.py", "store"], cwd=tmp_path, env=environment)
    begun = _await(lambda: [path.name for path in tmp_path.glob("store/artifacts/update/process-*")], of=2)
    command.kill()
    command.wait()
    _await(lambda: [name for name in begun if _is_over(int(name.removeprefix("process-")))], of=2)


def _is_over(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _await(found: Callable[[], list[str]], of: int) -> list[str]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len(there := found()) == of:
            return there
        time.sleep(0.1)
    raise AssertionError("not in time")
