"""Rounds started from the Prefect page: `c3 serve` waits, a deployment is run with parameters, and the round is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from tests.conftest import ROOT, Answer
from tests.support.kill import contents
from tests.support.rounds import drive

_PATIENCE_SECONDS = 600


@pytest.fixture
def serving(tmp_path: Path, store: Path, prefect_server: str) -> Iterator[None]:
    """`c3 serve` in a process of its own."""
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), "serve", "--store", str(store)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_round_started_from_the_page_is_the_round_of_the_command(
    serving: None, prefect_server: str, store: Path, tmp_path: Path
) -> None:
    parameters = {"run": "asked", "round": 1, "config": "scripted-duo", "overrides": ["seed=5"]}
    assert finished_run(prefect_server, parameters)["type"] == "COMPLETED"
    drive(tmp_path / "driven", load_config("scripted-duo", ["seed=5"]), run="asked")
    made, expected = contents(store), contents(tmp_path / "driven")
    parquet = {name: content for name, content in expected.items() if name.endswith(".parquet")}
    assert parquet and {name: made[name] for name in parquet} == parquet


def test_serving_without_a_server_says_how_to_start_one(c3: Callable[..., Answer], store: Path) -> None:
    answer = c3("serve", "--store", str(store))
    assert answer.code == 2
    assert answer.err == "c3: c3 serve: no Prefect server; start one with `c3 ui`, or set PREFECT_API_URL\n"


def finished_run(server: str, parameters: dict[str, Any]) -> Any:
    """Start the deployment `c3/round` as the page does, wait for its end, and tell in which state that is."""
    deployment = _await(lambda: _get(server, "deployments/name/c3/round"))
    started = _post(server, f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})

    def finished() -> dict[str, Any] | None:
        run = _get(server, f"flow_runs/{started['id']}")
        return run if run and run["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED") else None

    return _await(finished)["state"]


def _await(ask: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = ask()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError("not in time")


def _get(server: str, path: str) -> Any:
    try:
        with urllib.request.urlopen(f"{server}/{path}", timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def _post(server: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{server}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
