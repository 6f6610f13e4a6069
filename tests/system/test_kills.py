"""Killed anywhere, continued by the same command: nothing finished is made twice, and the bytes come out the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

import pytest

from configs.schema import Config
from configs.training import UpdateConfig
from tests.conftest import ROOT
from tests.support import worlds
from tests.support.kill import Victim, contents, finished_parts, repeated, temporary_files, unfinished
from tests.support.rounds import drive

SEED = 20
STAGES = ("problems", "rollout", "freeze", "sample", "replay", "grade", "advantages", "update")
ROUNDS = 3

SCRIPTED = """
[engine]
kind = "scripted"
[problems]
source = "scripted"
count = 48
[rounds]
problems_per_round = 24
[[roles]]
name = "reasoner"
user = "{question}"
[[roles]]
name = "actor"
depends_on = ["reasoner"]
user = "{question} {reasoner}"
[[roles]]
name = "verifier"
depends_on = ["actor"]
user = "{question} {reasoner} {actor}"
[plan]
kind = "replay"
transcripts = 2
budget = 22
[plan.roles]
reasoner = { alternatives = 3, replays = 2 }
actor = { alternatives = 2, replays = 2 }
verifier = { alternatives = 3 }
[grade]
evaluator = { kind = "table" }
[update]
learning_rate = 0.3
minibatches = 12
checkpoint_steps = 1
[parts]
problems_per_part = 2
answers_per_part = 3
"""

HELDOUT = 'evaluate.problems={source="scripted", count=12, seed=1}'
EVALUATION = {"problems": 2, "answer": 1, "grade": ROUNDS + 1, "evaluate": 1}
"""The stages of an evaluation, and how many artifacts of each there are after it."""

SMALL = (
    "rounds.problems_per_round=3",
    "parts.problems_per_part=1",
    "plan.fanout=[2,2]",
    "plan.budget=4",
    "update.minibatches=3",
)
REAL = (
    *("run", "iteration", "--round", "1", "--config", "arithmetic-duo", "--set", "update.checkpoint_steps=1"),
    *(word for override in SMALL for word in ("--set", override)),
)
AT_ONCE = 10.0
"""Seconds; two are the aim, and the figures are printed, but a busy machine may be slower than that."""
STOPPED = "c3: stopped; run the same command again to go on where it was"


class Campaign:
    """Kills of one command at seeded random moments, and where they struck."""

    def __init__(self, victim: Victim, seed: int) -> None:
        self.victim = victim
        self.struck: Counter[str] = Counter()
        self.half_written = 0
        self._random = random.Random(seed)
        self._finished: dict[Path, tuple[int, int]] = {}
        self._seconds_to_start = 1.0

    def strike_in(self, stage: str, artifacts: int, seconds: float) -> None:
        """Kill while the stage makes its artifact of that number: some parts into it, and some time into a part.

        Does nothing where that artifact is finished already, because an earlier kill came late.
        """
        if len(self.victim.closed(stage)) >= artifacts:
            return
        started = time.monotonic()
        parts = self._random.choice((1, 1, 2)) if seconds else 1  # at once: in the only part of its stage
        self.victim.start(f"{stage} {parts} {self._random.uniform(0, seconds)}")
        self.victim.die()
        self._seconds_to_start = time.monotonic() - started
        open_now = unfinished(self.victim.store)
        assert len(open_now) <= 1, open_now
        self._note(open_now[0][0] if open_now else "between stages")

    def strike_start(self) -> None:
        """Kill while the command starts, looks at what is there and shows it as reused."""
        self.victim.start()
        time.sleep(self._random.uniform(0, self._seconds_to_start))
        self.victim.kill()
        self._note("start")

    def _note(self, where: str) -> None:
        self.struck[where] += 1
        self.half_written += bool(temporary_files(self.victim.store))
        self._no_finished_part_was_touched()

    def _no_finished_part_was_touched(self) -> None:
        now = finished_parts(self.victim.store)
        assert {path: now.get(path) for path in self._finished} == self._finished
        self._finished = now

    def complete(self) -> None:
        """The same command, left alone: it ends well, with everything finished as it was."""
        self.victim.start()
        self.victim.finish()
        self._no_finished_part_was_touched()
        assert temporary_files(self.victim.store) == []
        assert unfinished(self.victim.store) == []

    def report(self) -> str:
        """What happened, in one line."""
        total, _ = repeated(self.victim.begun_log)
        return (
            f"{self.struck.total()} kills {dict(self.struck)}, {self.half_written} half-written, {total} parts repeated"
        )


def _at_most_one_part_was_repeated_per_kill(campaign: Campaign) -> None:
    total, by_process = repeated(campaign.victim.begun_log)
    assert max(by_process.values()) <= 1, by_process
    assert 0 < total <= campaign.struck.total()


@pytest.mark.slow
def test_sixty_kills_over_every_stage_change_no_byte_and_repeat_at_most_a_part_each(
    tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(SCRIPTED)
    environment = {"PREFECT_API_URL": prefect_server}
    training = ("run", "training", "--rounds", str(ROUNDS), "--config", str(config))
    evaluation = ("run", "evaluation", "--round", str(ROUNDS), "--set", HELDOUT)
    started = time.monotonic()

    campaign = Campaign(Victim(tmp_path / "killed", training, environment), SEED)
    for round in range(1, ROUNDS + 1):
        for stage in STAGES if round == 1 else STAGES[1:]:  # the problems are made once
            alone = stage in ("problems", "advantages")
            for _ in range(1 if alone else 3):
                campaign.strike_in(stage, artifacts=round, seconds=0.0 if alone else 0.06)
        for _ in range(2):
            campaign.strike_start()
    campaign.complete()
    evaluating = Campaign(Victim(tmp_path / "killed", evaluation, environment), SEED)
    for stage, artifacts in EVALUATION.items():
        evaluating.strike_in(stage, artifacts, seconds=0.0)
    evaluating.complete()

    whole = Victim(tmp_path / "whole", training, environment)
    for arguments in (training, evaluation):
        whole.arguments = arguments
        whole.start()
        whole.finish()
    with capsys.disabled():
        print(
            f"\nseed {SEED}, {time.monotonic() - started:.0f} s: {campaign.report()}; evaluation: {evaluating.report()}"
        )
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    struck = campaign.struck + evaluating.struck
    assert {*STAGES, *EVALUATION} <= set(struck)
    assert struck.total() >= 60
    _at_most_one_part_was_repeated_per_kill(campaign)


@pytest.mark.slow
def test_kills_of_a_real_model_change_no_byte_and_repeat_at_most_a_part_each(
    tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"PREFECT_API_URL": prefect_server}
    started = time.monotonic()
    campaign = Campaign(Victim(tmp_path / "killed", REAL, environment), SEED)
    for stage, seconds in (
        *(("rollout", 0.6), ("rollout", 0.6), ("freeze", 0.02), ("sample", 0.4), ("sample", 0.4), ("replay", 0.02)),
        *(("grade", 0.02), ("update", 0.6), ("update", 0.6)),
    ):
        campaign.strike_in(stage, 1, seconds)
    campaign.complete()
    whole = Victim(tmp_path / "whole", REAL, environment)
    whole.start()
    whole.finish()
    with capsys.disabled():
        print(f"\nreal model, seed {SEED}, {time.monotonic() - started:.0f} s: {campaign.report()}")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert {"rollout", "sample", "update"} <= set(campaign.struck)
    assert campaign.struck.total() >= 6
    _at_most_one_part_was_repeated_per_kill(campaign)


_KILLS_ITSELF = """
import os, signal, sys
from pathlib import Path
from tests.support.rounds import drive
from tests.system.test_kills import small_world

store, when, place = sys.argv[1:]
rename = Path.rename

def deadly(self, target):
    struck = str(target).endswith(place)
    if struck and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = rename(self, target)
    if struck and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.rename = deadly
drive(Path(store), small_world())
"""


def small_world() -> Config:
    """Two parts of each stage, and of the update."""
    return worlds.duo(update=UpdateConfig(minibatches=2, checkpoint_steps=1))


@pytest.fixture(scope="module")
def whole_contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The files of a round that nothing interrupted."""
    store = tmp_path_factory.mktemp("whole") / "store"
    drive(store, small_world())
    return contents(store)


@pytest.mark.parametrize(
    ("when", "place", "step", "made"),
    [  # where the process dies, the step it dies in, and how many of that step's parts are then made again or at last
        ("before", "runs/test/run.json", "problems", 1),
        ("before", "part-00000", "problems", 1),
        ("before", "part-00001", "rollout", 1),
        ("after", "part-00001", "rollout", 0),
        ("after", "part-00000", "problems", 0),
        ("before", "manifest.json", "problems", 0),
        ("after", "manifest.json", "problems", 0),
        ("before", "main/round-00001.json", "problems", 0),
        ("after", "main/round-00001.json", "problems", 0),
    ],
)
def test_whatever_the_last_write_before_the_kill_the_round_goes_on_from_there(
    store: Path, whole_contents: dict[str, object], when: str, place: str, step: str, made: int
) -> None:
    died = subprocess.run(
        [sys.executable, "-c", _KILLS_ITSELF, str(store), when, place], cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    assert died.returncode == -signal.SIGKILL
    resumed = drive(store, small_world())
    assert resumed.reports[step].parts_made == made
    assert temporary_files(store) == []
    assert contents(store) == whole_contents


def _is_one_line_on_how_to_go_on(code: int, words: str) -> bool:
    return code == 130 and words.strip() == STOPPED


@pytest.mark.parametrize(
    ("number", "stage"), [(signal.SIGINT, "rollout"), pytest.param(signal.SIGTERM, "update", marks=pytest.mark.slow)]
)
def test_a_command_stopped_by_hand_says_how_to_go_on_and_does(
    store: Path, prefect_server: str, number: signal.Signals, stage: str
) -> None:
    command = ("run", "iteration", "--round", "1", "--config", "scripted-duo")
    victim = Victim(store, command, {"PREFECT_API_URL": prefect_server})
    victim.start()
    victim.wait_for(stage)
    _, code, words = victim.stop(number)
    assert _is_one_line_on_how_to_go_on(code, words), words
    victim.start()
    victim.finish()
    assert temporary_files(store) == []


_STOPPED_AT_ONCE = """
import os, signal, sys
import cli

take_over = signal.signal

def and_hear(number, handler):
    take_over(number, handler)
    if number == signal.SIGTERM and handler is not signal.SIG_IGN:
        os.kill(os.getpid(), signal.SIGTERM)

signal.signal, sys.argv = and_hear, ["c3", "status"]
cli.main()
"""


def test_a_signal_in_the_moment_it_is_taken_over_is_one_line_too() -> None:
    environment = {**os.environ, "PYTHONPATH": "."}
    ran = subprocess.run(
        [sys.executable, "-c", _STOPPED_AT_ONCE], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert _is_one_line_on_how_to_go_on(ran.returncode, ran.stderr), ran.stderr


@pytest.mark.slow
def test_a_signal_ends_a_command_at_once_in_every_stage(
    tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(SCRIPTED)
    command = ("run", "iteration", "--round", "1", "--config", str(config))
    victim = Victim(tmp_path / "store", command, {"PREFECT_API_URL": prefect_server})
    _ends_in_time(victim, dict.fromkeys(STAGES, 0.0), capsys)


@pytest.mark.slow
def test_a_signal_ends_a_real_model_at_once_while_it_loads_generates_and_trains(
    tmp_path: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = Victim(tmp_path / "store", REAL, {"PREFECT_API_URL": prefect_server})
    seconds: list[float] = []
    for wait in (0.0, 1.0, 2.0, 4.0):  # while it imports and loads
        victim.start()
        assert victim.wait_until(victim.listens)
        time.sleep(wait)
        seconds.append(_stopped_in(victim, signal.SIGTERM))
    assert max(seconds) < AT_ONCE, seconds
    _ends_in_time(victim, {"rollout": 0.3, "sample": 0.2, "grade": 0.0, "update": 0.5}, capsys)


def _ends_in_time(victim: Victim, stages: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    seconds: dict[str, float] = {}
    for (stage, wait), number in zip(stages.items(), cycle((signal.SIGINT, signal.SIGTERM)), strict=False):
        victim.start()
        victim.wait_for(stage)
        time.sleep(wait)
        seconds[stage] = _stopped_in(victim, number)
    with capsys.disabled():
        print(f"\nseconds until gone: { {stage: round(took, 2) for stage, took in seconds.items()} }")
    assert max(seconds.values()) < AT_ONCE, seconds


def _stopped_in(victim: Victim, number: signal.Signals) -> float:
    took, code, words = victim.stop(number)
    assert _is_one_line_on_how_to_go_on(code, words), words
    return took


IN_A_DESTRUCTOR = """
import os, signal, time
from pipeline.execution.signals import install_handlers
class Going:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(100))  # where Python hears of it
install_handlers()
Going()
time.sleep(60)
"""


def test_a_signal_that_comes_while_an_object_is_cleared_away_is_not_lost_nor_shown() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_DESTRUCTOR], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert _is_one_line_on_how_to_go_on(done.returncode, done.stderr), done.stderr


@pytest.mark.slow
def test_a_signal_while_the_temporary_server_starts_takes_that_server_along(store: Path) -> None:
    command = ("run", "iteration", "--round", "1", "--config", "scripted-duo")
    victim = Victim(store, command, {})
    victim.start()
    assert victim.wait_until((store / "prefect/temporary-server.log").exists)
    time.sleep(0.5)
    children = Path(f"/proc/{victim.process.pid}/task/{victim.process.pid}/children").read_text().split()
    assert children
    _stopped_in(victim, signal.SIGTERM)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
