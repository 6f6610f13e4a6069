"""Which Prefect server a command talks to: the configured one, the lasting one of `c3 ui`, or a temporary one."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.environment import prefect_api_url, prepare_prefect, temporary_server_environment
from configs.errors import C3Error, ConfigError, StoreError
from store.disk.atomic import writing
from store.disk.layout import Layout
from store.disk.records import read_record, write_record

_ANSWER_SECONDS = 2.0
_START_SECONDS = 90
TEMPORARY_LOG = "temporary-server.log"


def server_url(layout: Layout) -> str | None:
    """Return the API address of a server that is there to be used, or None."""
    configured = prefect_api_url()
    if configured is not None:
        return configured
    record = _record(layout)
    return str(record["url"]) if record and _healthy(record["url"]) else None


def use_server(layout: Layout) -> Callable[[], None]:
    """Point Prefect at a server and at the store, before it is imported; returns what waits until the server answers.

    Where none is there a temporary one is started, which ends with this process however that ends.
    """
    url = server_url(layout)
    with writing(layout.prefect):
        layout.prefect.mkdir(parents=True, exist_ok=True)
    process = None
    if url is None:
        url, process = _start_temporary(layout)
    prepare_prefect(url, (layout.prefect / "results").resolve())
    log = layout.prefect / TEMPORARY_LOG
    return (lambda: None) if process is None else (lambda: _await(url, process, log))


def use_lasting(layout: Layout) -> None:
    """Point Prefect at a server that outlives this command. ConfigError when there is none."""
    if server_url(layout) is None:
        raise ConfigError("c3 serve: no Prefect server; start one with `c3 ui`, or set PREFECT_API_URL")
    use_server(layout)


def _start_temporary(layout: Layout) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a server of this command's own, on a free port of this machine; return its address and process."""
    if _temporary:
        return _temporary[0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with writing(layout.prefect):
        log = (layout.prefect / TEMPORARY_LOG).open("wb")
    command = [sys.executable, "-P", "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    with log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=temporary_server_environment(),
            preexec_fn=_die_with_parent,
        )
    atexit.register(process.kill)
    _temporary.append((f"http://127.0.0.1:{port}/api", process))
    return _temporary[0]


def is_temporary() -> bool:
    """Return whether this process talks to a server of its own, which ends with it."""
    return bool(_temporary)


def stop_temporary() -> None:
    """End this process's temporary server now."""
    for _, process in _temporary:
        process.kill()


_temporary: list[tuple[str, subprocess.Popen[bytes]]] = []
"""This process's temporary server, if it started one: there is at most one per process."""


def _die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it is gone, even by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


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
            [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _await(url, process, layout.prefect / "server.log")
    with writing(layout.prefect):
        write_record(layout.server_record, {"url": url, "process": process.pid})
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
            raise C3Error(f"Prefect's server stopped with code {process.returncode}; its words are in {log}")
        if _healthy(url):
            return
        time.sleep(0.3)
    process.terminate()
    raise C3Error(f"Prefect's server did not answer within {_START_SECONDS} s; its words are in {log}")


def _healthy(url: str) -> bool:
    from urllib.error import URLError  # where no server is asked, the time to import these is saved
    from urllib.request import urlopen

    try:
        with urlopen(f"{url}/health", timeout=_ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _record(layout: Layout) -> dict[str, Any] | None:
    try:
        return read_record(layout.server_record)
    except StoreError as error:
        raise StoreError(f"{error}; delete it, and start a server again with `c3 ui`") from error
