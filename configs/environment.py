"""Environment variables, read here and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path


def store_root() -> Path:
    """Where runs and artifacts lie: C3_STORE, or c3-store in the current directory."""
    return Path(os.environ.get("C3_STORE", "c3-store"))


def cache_root() -> Path:
    """Where converted models lie: C3_CACHE, or c3 in the user's cache directory."""
    if "C3_CACHE" in os.environ:
        return Path(os.environ["C3_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "c3"


def prepare_threads() -> None:
    """To be called before torch is imported: its threads wait asleep, not in a loop, unless the user set it.

    With another process on the same cores threads that spin hold each other up: an update took 190 s instead of 4 beside two
    others. Alone it makes no difference (rounds of 24.5, 21.8, 19.2 s asleep; 25.8, 18.8, 19.6 s spinning).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def prepare_cublas() -> None:
    """To be called before a GPU's first product: without room set aside cuBLAS promises no repeatable sums."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def prefect_api_url() -> str | None:
    """The Prefect server that the user configured, if any."""
    return os.environ.get("PREFECT_API_URL") or None


def prepare_prefect(api_url: str, results: Path) -> None:
    """Prefect's settings, to be made before it is imported; what the user set stays as it is."""
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
    """The environment of a server that only one command uses: no page, no background services."""
    return {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def server_key() -> str | None:
    """The key that vLLM servers ask for, if any: VLLM_API_KEY, as on the servers' side."""
    return os.environ.get("VLLM_API_KEY") or None


def prepare_vllm(cpu_cache_gib: int, threads: int) -> None:
    """vLLM's settings, to be made before it is imported; what the user set stays as it is."""
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
