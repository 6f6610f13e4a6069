"""Several processes for one update: started here, one per GPU (or side by side on a CPU), gone when it is done.

Each loads the model for itself and is handed the same job; which rows it computes is the crew's to say. The first one's
rows and weights lie in a folder until they are put into the part. A process that fails ends the others, and none outlives
the process that started it.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import PrepareForLaunch, patch_environment
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from configs.errors import C3Error, UpdateError
from configs.schema import Config
from stages.base.inputs import Part
from stages.base.job import Job
from stages.learners.protocol import Learner
from stages.learners.registry import make_learner
from stages.runtime.child_processes import own_packages_first
from stages.runtime.device import resolved_device
from stages.runtime.parent_watch import exit_with_parent
from stages.training.process_group import Distributed, ProcessGroup
from store.artifacts.artifact import Row, StageOutput

_FILES, _ANSWER, _ERROR = "files", "answer", "error"
"""What processes leave in the folder they are given."""


@dataclass(frozen=True)
class _Answer:
    """What the first process hands back beside its files."""

    tables: Mapping[str, Sequence[Row]]
    usage: Mapping[str, int]
    step_timing: Sequence[Row]


def train_together(
    train: Callable[[Part, Job, Learner, ProcessGroup], StageOutput], part: Part, job: Job
) -> StageOutput:
    """Make a part with `update.processes` processes; `train` is a function of a module, which each of them calls.

    Raises what went wrong in one of them; UpdateError when there are fewer GPUs, or one ended without saying why.
    """
    count, device = job.config.update.processes, _device(job.config)
    if device == "cuda" and torch.cuda.device_count() < count:
        raise UpdateError(
            f"update.processes: {count}, but torch sees {torch.cuda.device_count()} GPUs here, and each process wants its own; "
            f"lower it, or show them to it (CUDA_VISIBLE_DEVICES)"
        )
    folder = tempfile.TemporaryDirectory(prefix="c3-update-")
    place = Path(folder.name)
    work = PrepareForLaunch(_work, distributed_type="MULTI_CPU" if device == "cpu" else "MULTI_GPU")
    # the job is replaced by its like: rows that were read here do not travel, each process reads them from the store
    order = (os.getpid(), train, part, replace(job), device, place)
    try:
        with own_packages_first(), patch_environment(**_environment(count, job.config)):
            start_processes(work, order, count, daemon=True, start_method="spawn")
    except (ProcessExitedException, ProcessRaisedException) as error:
        for report in sorted(place.glob(f"{_ERROR}-*")):
            raise pickle.loads(report.read_bytes()) from error
        raise UpdateError(f"update: one of {count} processes failed: {_last_line(error)}") from error
    answer: _Answer = pickle.loads((place / _ANSWER).read_bytes())
    return StageOutput(answer.tables, partial(_put, folder), answer.usage, answer.step_timing)


def _work(
    command: int,
    train: Callable[[Part, Job, Learner, ProcessGroup], StageOutput],
    part: Part,
    job: Job,
    device: str,
    place: Path,
) -> None:
    """In each process."""
    exit_with_parent(command)  # torch asks for SIGINT then, which a command in the background of a script ignores
    group = Distributed(device)
    try:
        output = train(part, job, make_learner(job.config), group)
    except C3Error as error:
        (place / f"{_ERROR}-{group.index}").write_bytes(pickle.dumps(error))
        raise SystemExit(error.exit_code) from error
    if group.index == 0:
        assert output.write_files is not None, "an update always has weights"
        output.write_files(place / _FILES)
        (place / _ANSWER).write_bytes(pickle.dumps(_Answer(output.tables, output.usage, output.step_timing)))
    group.leave()


def _put(folder: tempfile.TemporaryDirectory[str], target: Path) -> None:
    """Move what the first process wrote into the part."""
    with folder:
        for entry in sorted((Path(folder.name) / _FILES).iterdir()):
            shutil.move(entry, target / entry.name)


def _device(config: Config) -> str:
    return resolved_device(config.engine.device)


def _environment(count: int, config: Config) -> dict[str, str]:
    """Return what accelerate reads in each process. Threads are the learner's to set; it only wants to see some."""
    threads = config.engine.threads
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"world_size": count, "local_world_size": count, "master_addr": "127.0.0.1", "master_port": port}
    return {name: str(value) for name, value in {**settings, "omp_num_threads": threads}.items()}


def _last_line(error: Exception) -> str:
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()
