"""Breaking `c3` at chosen moments: processes to kill, a log of the parts they begin, and stores to compare afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT

Place = tuple[str, str]
"""A stage and a key: one artifact."""

_LOGGED_C3 = """
import os
import signal
import threading
import cli
from pipeline.execution import runner

make_part = runner.make_part
deadly_stage, parts, seconds = os.environ["DIES_IN"].split()
begun = []

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def logged(writer, look, part, *rest):
    stage = look.step.stage.name
    begun.append(stage)
    line = f"{os.getpid()} {stage} {look.key} {part.index}\\n"
    log = os.open(os.environ["BEGUN_LOG"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(log, line.encode())
    os.close(log)
    if stage == deadly_stage and begun.count(stage) == int(parts):
        threading.Timer(float(seconds), die).start() if float(seconds) else die()
    elif stage != deadly_stage and deadly_stage in begun:
        die()  # it had fewer parts left
    return make_part(writer, look, part, *rest)

runner.make_part = logged
cli.main()
"""
"""`c3` that notes every part it begins to make, in a file that outlives it, and can be made to die at one of them.

It sends itself the SIGKILL, because another process is often too late to strike within a part of a few milliseconds.
"""


@dataclass
class Victim:
    """One command over one store, to be started again and again."""

    store: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    logged: bool = True
    process: subprocess.Popen[str] = field(init=False)

    @property
    def begun_log(self) -> Path:
        """Where it notes the parts it begins."""
        return self.store.with_name(f"{self.store.name}-begun.log")

    def start(self, dies_in: str = "nothing 0 0") -> None:
        """Start the command. `dies_in`: stage, parts of it begun, and seconds from there to SIGKILL."""
        program = ["-c", _LOGGED_C3] if self.logged else [str(ROOT / "cli.py")]
        self.process = subprocess.Popen(
            [sys.executable, *program, *self.arguments, "--store", str(self.store)],
            cwd=ROOT,
            env={
                **os.environ,
                "BEGUN_LOG": str(self.begun_log),
                "DIES_IN": dies_in,
                "COLUMNS": "200",
                **self.environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> str:
        """Wait for its end, which must be a good one; what it printed."""
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, err
        return out

    def die(self) -> None:
        """Wait until it is dead by the signal it was made to send itself."""
        _, err = self.process.communicate(timeout=300)
        assert self.process.returncode == -signal.SIGKILL, err

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.communicate(timeout=60)

    def stop(self, number: signal.Signals) -> tuple[float, int, str]:
        """Send a signal; seconds until it was gone, its exit code and its words on standard error."""
        sent = time.monotonic()
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return time.monotonic() - sent, self.process.returncode, err

    def wait_for(self, stage: str, parts: int = 1) -> None:
        """Wait until this process has begun so many parts of a stage, or closed an artifact of it."""
        mine = f"{self.process.pid} {stage} "
        before = self.closed(stage)

        def reached() -> bool:
            log = self.begun_log.read_text() if self.begun_log.exists() else ""
            begun = sum(line.startswith(mine) for line in log.splitlines())
            return begun >= parts or self.closed(stage) != before

        assert self.wait_until(reached), self.process.communicate()

    def listens(self) -> bool:
        """Whether it has taken SIGTERM over: the system's own record of the signals that a process catches."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def closed(self, stage: str) -> set[str]:
        """Keys of the finished artifacts of a stage."""
        return {path.parent.name for path in (self.store / "artifacts" / stage).glob("*/manifest.json")}

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Watch until something is so. False when the process ended before it was."""
        while not reached():
            if self.process.poll() is not None:
                return False
            time.sleep(0.001)
        return True


def unfinished(store: Path) -> list[Place]:
    """The artifacts that a writer has opened and not closed."""
    folders = (store / "artifacts").glob("*/*")
    return [(path.parent.name, path.name) for path in folders if not (path / "manifest.json").exists()]


def finished_parts(store: Path) -> dict[Path, tuple[int, int]]:
    """Every part in place: its record's inode and time of writing, which change when it is made again."""
    records = (store / "artifacts").glob("*/*/part-*/part.json")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in records}


def repeated(log: Path) -> tuple[int, dict[str, int]]:
    """Parts begun more often than once, counted each time but the first; in all and by process."""
    known: set[str] = set()
    by_process: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        process, _, part = line.partition(" ")
        by_process[process] += part in known
        known.add(part)
    return by_process.total(), dict(by_process)


def contents(store: Path) -> dict[str, Any]:
    """Every file of a store's artifacts and runs: bytes, and of records what is not a time."""
    found: dict[str, Any] = {}
    for folder in ("artifacts", "runs"):
        for path in sorted((store / folder).rglob("*")):
            if path.is_file():
                name = path.relative_to(store).as_posix()
                found[name] = (
                    _without_times(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
                )
    return found


def _without_times(value: Any) -> Any:
    """A record without what may differ between two runs: when, how long, and the checksum over that."""
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in _TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


_TIMES = {"seconds", "created_at", "checksum"}


def temporary_files(store: Path) -> list[Path]:
    """What is left of files half written."""
    return [path for path in store.rglob("*") if path.name.startswith(".tmp-")]


def end(process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Ask a process to end; it and its children are killed when they do not. One that still starts does not hear of it."""
    if process.poll() is not None:
        return
    everything = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    for left in psutil.wait_procs(everything, timeout=seconds)[1]:
        left.kill()
    process.wait(60)


def on_import(module: str, code: str) -> str:
    """A sitecustomize that runs `code` just before a module is imported, in whatever process does so."""
    return (
        "import sys\n"
        f"CODE = {code!r}\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            sys.meta_path.remove(self)\n"
        "            exec(CODE, {})\n"
        "        return None\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
