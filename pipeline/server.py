"""Which Prefect server a command talks to: the configured one, the lasting one of `c3 ui`, or a temporary one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from configs.environment import prefect_api_url, prepare_prefect
from configs.errors import C3Error
from store.artifacts import write_json, writing
from store.layout import Layout

_ANSWER_SECONDS = 2.0
_START_SECONDS = 90


def server_url(layout: Layout) -> str | None:
    """The API address of a server that is there to be used, or None."""
    configured = prefect_api_url()
    if configured is not None:
        return configured
    record = _record(layout)
    return record["url"] if record and _healthy(record["url"]) else None


def use_server(layout: Layout) -> str | None:
    """Point Prefect at the server and at the store, before it is imported. None: it will start a temporary one."""
    url = server_url(layout)
    with writing(layout.prefect):
        layout.prefect.mkdir(parents=True, exist_ok=True)
    prepare_prefect(url, (layout.prefect / "results").resolve())
    return url


def start_lasting(layout: Layout, port: int) -> str:
    """Start a local server that outlives this command, or find the one that runs. Returns its API address."""
    running = server_url(layout)
    if running is not None:
        return running
    url = f"http://127.0.0.1:{port}/api"
    with writing(layout.prefect):
        layout.prefect.mkdir(parents=True, exist_ok=True)
        log = (layout.prefect / "server.log").open("ab")
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _await(url, process, layout.prefect / "server.log")
    with writing(layout.prefect):
        write_json(layout.server_record, {"url": url, "process": process.pid})
    return url


def stop_lasting(layout: Layout) -> bool:
    """Stop the server that `c3 ui` started. False when none runs."""
    record = _record(layout)
    if record is None:
        return False
    layout.server_record.unlink(missing_ok=True)
    try:
        os.kill(record["process"], signal.SIGTERM)
    except ProcessLookupError:
        return False
    return True


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise C3Error(f"c3 ui: the server stopped with code {process.returncode}; its words are in {log}")
        if _healthy(url):
            return
        time.sleep(0.3)
    process.terminate()
    raise C3Error(f"c3 ui: the server did not answer within {_START_SECONDS} s; its words are in {log}")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _record(layout: Layout) -> dict[str, str | int] | None:  # type: ignore[type-arg]
    try:
        return dict(json.loads(layout.server_record.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
