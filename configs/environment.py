"""Read and set environment variables, here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path


def store_root() -> Path:
    """Return the folder of runs and artifacts: C3_STORE, or c3-store in the current directory."""
    return Path(os.environ.get("C3_STORE", "c3-store"))


def cache_root() -> Path:
    """Return the folder of converted models: C3_CACHE, or c3 in the user's cache directory."""
    if "C3_CACHE" in os.environ:
        return Path(os.environ["C3_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "c3"


def prepare_threads() -> None:
    """Let idle OpenMP threads sleep instead of spin, unless the user set it. To be called before torch is imported.

    Where other processes use the same cores, spinning threads hold each other up: with two others running an update
    took 190 s instead of 4. Alone it makes no difference (rounds of 24.5, 21.8, 19.2 s asleep; 25.8, 18.8,
    19.6 s spinning).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def prepare_cublas() -> None:
    """Reserve cuBLAS workspace, so that its sums are deterministic. To be called before a GPU's first product."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def prefect_api_url() -> str | None:
    """Return the address of the Prefect server that the user configured, or None."""
    return os.environ.get("PREFECT_API_URL") or None


def prepare_prefect(api_url: str, results: Path) -> None:
    """Set Prefect's variables, except those that the user set. To be called before Prefect is imported.

    `results`: the folder of its results.
    """
    wanted = {
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(results),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    wanted["PREFECT_API_URL"] = api_url
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def temporary_server_environment() -> dict[str, str]:
    """Return the environment of a server that only one command uses: no page, no background services."""
    return {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def server_key() -> str | None:
    """Return the key that vLLM servers require (VLLM_API_KEY, as on the servers' side), or None."""
    return os.environ.get("VLLM_API_KEY") or None


def prepare_vllm(cpu_cache_gib: int, threads: int) -> None:
    """Set vLLM's variables, except those that the user set. To be called before vLLM is imported.

    `cpu_cache_gib`: GiB of memory for its key-value cache on a CPU. `threads`: those of OpenMP.
    """
    wanted = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # this process has threads, which a fork would cut off half-way
        "VLLM_CPU_KVCACHE_SPACE": str(cpu_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
