"""prefect.yaml as it stands: deployed to a work pool, and a round made by the pool's worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from configs.load import load_config
from tests.conftest import ROOT
from tests.pipeline.flows.test_serving import finished_run
from tests.support.kill import contents, end
from tests.support.rounds import drive

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(tmp_path: Path, prefect_server: str) -> Mapping[str, str]:
    """Of whoever deploys: neither the configurations' place nor the store's, which are the worker's to know."""
    return {
        **{name: value for name, value in os.environ.items() if name != "C3_HOME"},
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path / "prefect-home"),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture
def worker(environment: Mapping[str, str], store: Path, tmp_path: Path) -> Iterator[None]:
    """A pool, the deployments of prefect.yaml, and a worker that waits, by the commands that its comment names."""
    _prefect(environment, "work-pool", "create", "c3", "--type", "process")
    said = _prefect(environment, "--no-prompt", "deploy", "--all")
    assert "c3/round" in said
    home = (
        tmp_path / "home"
    )  # of the configurations; a folder there that has the name of one of C3's packages is left alone
    (home / "pipeline").mkdir(parents=True)
    (home / "pipeline" / "__init__.py").write_text("raise RuntimeError('not this one')")
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "c3"],
            cwd=tmp_path,
            env={**environment, "C3_HOME": str(home), "C3_STORE": str(store)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        end(process)
        # the server is the session's, and `c3 serve` has a deployment of the same name
        _prefect(environment, "--no-prompt", "deployment", "delete", "c3/round")
        _prefect(environment, "--no-prompt", "work-pool", "delete", "c3")


def _prefect(environment: Mapping[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_worker_of_the_pool_makes_the_round_that_the_command_makes(
    worker: None, prefect_server: str, store: Path, tmp_path: Path
) -> None:
    parameters = {"run": "asked", "round": 1, "config": "scripted-duo", "overrides": ["seed=5"]}
    state = finished_run(prefect_server, parameters)
    assert state["type"] == "COMPLETED", (tmp_path / "worker.log").read_text()
    drive(tmp_path / "driven", load_config("scripted-duo", ["seed=5"]), run="asked")
    made, expected = contents(store), contents(tmp_path / "driven")
    parquet = {name: content for name, content in expected.items() if name.endswith(".parquet")}
    assert parquet and {name: made[name] for name in parquet} == parquet
