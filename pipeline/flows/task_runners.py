"""Where Prefect runs the parts that are made side by side: threads of this process, or Dask or Ray workers.

The flow, the stages and the store are the same in each case, and so are the bytes.
"""

from __future__ import annotations

from typing import Any

from prefect.task_runners import ThreadPoolTaskRunner

from configs.errors import ConfigError
from configs.schema import WorkersConfig

_RAY_WORKERS = {"runtime_env": {"worker_process_setup_hook": "c3.claim_packages"}}
"""Ray puts the command's folder first on a worker's sys.path; what lies there must not be taken for C3's packages."""


def task_runner(workers: WorkersConfig) -> Any:
    """Return the runner that the configuration asks for. ConfigError naming the extra when its library is not installed."""
    if workers.runner == "dask":
        return _dask(workers)
    if workers.runner == "ray":
        return _ray(workers)
    return ThreadPoolTaskRunner(max_workers=workers.count)


def _dask(workers: WorkersConfig) -> Any:
    try:
        from prefect_dask import DaskTaskRunner  # type: ignore[attr-defined, unused-ignore]
    except ImportError as error:
        raise _missing("dask", error) from error
    if workers.address is not None:
        return DaskTaskRunner(address=workers.address)
    # one part per process: an engine has one set of weights to show
    options = {"n_workers": workers.count, "threads_per_worker": 1, "dashboard_address": None, "preload": "c3"}
    return DaskTaskRunner(cluster_kwargs=options)


def _ray(workers: WorkersConfig) -> Any:
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise _missing("ray", error) from error
    if workers.address is not None:
        return RayTaskRunner(address=workers.address, init_kwargs=dict(_RAY_WORKERS))
    options = {"num_cpus": workers.count, "include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    return RayTaskRunner(init_kwargs={**options, **_RAY_WORKERS})


def _missing(extra: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"workers.runner: '{extra}' is not installed here ({error}); pip install 'c3-credit[{extra}]', or use threads"
    )
