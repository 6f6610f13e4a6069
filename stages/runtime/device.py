"""What this machine computes with, found without torch: keys are made from it, and the engine uses the same answer."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]

_NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def resolved_device(device: str) -> Device:
    """Return what "auto" means here: "cuda" where an NVIDIA device is present, else "cpu"."""
    if device == "auto":
        return "cuda" if _has_nvidia_device() else "cpu"
    return "cuda" if device.startswith("cuda") else "cpu"


def resolved_dtype(dtype: str, device: str = "cpu") -> Dtype:
    """Return what "auto" means here: "bfloat16" where it is multiplied natively, else "float32".

    An emulated bfloat16 product is slower than a float32 one (5 times on an AVX2 machine), so speed decides.
    """
    if dtype == "auto":
        native = resolved_device(device) == "cuda" or bool(_NATIVE_BF16 & _processor_flags())
        return "bfloat16" if native else "float32"
    return "bfloat16" if dtype == "bfloat16" else "float32"


@lru_cache
def _has_nvidia_device() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()  # dxg: the GPU of WSL


def gpu_count() -> int | None:
    """Return NVIDIA devices of this machine; None where they cannot be counted (WSL)."""
    if Path("/dev/dxg").exists():
        return None
    return sum(path.name.removeprefix("nvidia").isdigit() for path in Path("/dev").glob("nvidia*"))


@lru_cache
def _processor_flags() -> frozenset[str]:
    """Return the instruction sets of /proc/cpuinfo; empty where there is no such file (then nothing is assumed native)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split())
