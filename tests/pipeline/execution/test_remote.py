"""Parts made by Ray and Dask workers: the bytes of a serial round, whichever worker dies."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support.kill import Victim, contents, on_import, temporary_files

pytestmark = pytest.mark.slow

PARTS = 8
CONFIG = f"""
[engine]
kind = "scripted"
[problems]
source = "scripted"
count = {PARTS}
[rounds]
problems_per_round = {PARTS}
[[roles]]
name = "reasoner"
user = "{{question}}"
[[roles]]
name = "actor"
depends_on = ["reasoner"]
user = "{{question}} {{reasoner}}"
[plan]
kind = "tree"
fanout = [2, 3]
budget = 6
[grade]
evaluator = {{ kind = "table" }}
[update]
learning_rate = 0.3
minibatches = 2
[parts]
problems_per_part = 1
"""
DYING = """
import os, signal, sys, time
from pathlib import Path
from pipeline.execution import runner

make_part = runner.make_part

def mortal(writer, look, part, *rest):
    scythe = Path(os.environ["SCYTHE"])
    if look.step.name == "rollout" and part.index == 3 and not scythe.exists():
        scythe.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return make_part(writer, look, part, *rest)

runner.make_part = mortal
"""
"""Put before every Python process of a command: whoever first begins the rollout's fourth part is killed at once."""
TELLING = """
import os, time
from pathlib import Path
from pipeline.execution import runner

make_part = runner.make_part

def told(writer, look, part, *rest):
    with open(os.environ["MAKERS"], "a") as log:
        log.write(f"{os.getpid()} {look.step.name}\\n")
    if look.step.name == "rollout":
        _meet(Path(os.environ["MAKERS"]))
    return make_part(writer, look, part, *rest)

def _meet(log, seconds=60):
    # whoever is first waits for another process to begin one too: on a busy machine it would else make them all
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if len({line.split()[0] for line in log.read_text().splitlines() if line.endswith(" rollout")}) > 1:
            return
        time.sleep(0.05)

runner.make_part = told
"""
"""The same: each part's maker is noted."""


def _command(folder: Path, server: str, *settings: str, **environment: str) -> Victim:
    config = folder / "config.toml"
    config.write_text(CONFIG)
    chosen = [item for setting in settings for item in ("--set", setting)]
    arguments = ("run", "iteration", "--round", "1", "--config", str(config), *chosen)
    environment = {"PREFECT_API_URL": server, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", **environment}
    return Victim(folder / "store", arguments, environment, logged=False)


def _artifacts(store: Path) -> dict[str, object]:
    """What the round made. Its record also says who made it: the workers are in the configuration."""
    return {name: content for name, content in contents(store).items() if name.startswith("artifacts")}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> dict[str, object]:
    victim = _command(tmp_path_factory.mktemp("serial"), prefect_server)
    victim.start()
    victim.finish()
    return _artifacts(victim.store)


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_round_of_four_workers_has_the_bytes_of_a_serial_one(
    runner: str, serial: dict[str, object], tmp_path: Path, prefect_server: str
) -> None:
    pytest.importorskip(f"prefect_{runner}", reason=f"needs the extra: pip install 'c3-credit[{runner}]'")
    (tmp_path / "sitecustomize.py").write_text(on_import("pipeline.execution.remote", TELLING))
    log = tmp_path / "makers.log"
    victim = _command(tmp_path, prefect_server, f"workers.runner={runner}", "workers.count=4", MAKERS=str(log))
    victim.start()
    victim.finish()
    assert _artifacts(victim.store) == serial
    makers: dict[str, list[int]] = defaultdict(list)
    for line in log.read_text().splitlines():
        process, step = line.split()
        makers[step].append(int(process))
    own = victim.process.pid
    assert set(makers.pop("update")) == {own}  # the weights are trained where the command runs
    assert all(own not in processes for processes in makers.values())
    assert len(makers["rollout"]) == PARTS and len(set(makers["rollout"])) > 1


def test_a_ray_worker_killed_in_a_part_is_replaced_and_no_byte_differs(
    serial: dict[str, object], tmp_path: Path, prefect_server: str
) -> None:
    pytest.importorskip("prefect_ray", reason="needs the extra: pip install 'c3-credit[ray]'")
    (tmp_path / "sitecustomize.py").write_text(on_import("pipeline.execution.remote", DYING))
    scythe = tmp_path / "scythe"
    victim = _command(tmp_path, prefect_server, "workers.runner=ray", "workers.count=4", SCYTHE=str(scythe))
    victim.start()
    victim.finish()
    assert scythe.exists() and int(scythe.read_text()) != victim.process.pid  # it was a worker that died
    assert _artifacts(victim.store) == serial
    assert temporary_files(victim.store) == []
