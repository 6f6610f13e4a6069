"""How a GPU computes here: no kernel that is planned anew for every shape, and, where weights are trained, sums of one order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from configs.environment import prepare_cublas


def configure_cuda() -> None:
    """Prepare this process, before its first product on a GPU.

    cuDNN's attention, which torch prefers on the latest GPUs, builds a plan for each new shape; a cache that grows by a
    token a step, and tries of any size, have a new shape in nearly every call.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    prepare_cublas()
    warnings.filterwarnings(
        "ignore", "Memory Efficient attention defaults to a non-deterministic algorithm"
    )  # see below


@contextmanager
def deterministic() -> Iterator[None]:
    """Yield forward and backward passes in which equal numbers give equal bytes, on a GPU too; on a CPU they do anyway.

    Going back, attention and the sums over shared places otherwise add in whatever order their threads come by. What has no
    form of one order runs as it is: attention with keys split among threads is the one to know (long micro-batches).
    """
    if not torch.cuda.is_initialized():
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)  # a model may hold a kernel that has no such form
    memory.fill_uninitialized_memory = False  # nothing here reads what was not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled
