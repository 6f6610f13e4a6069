"""Two commands at once: the second says who holds what since when, and shares the result once it is there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Answer
from tests.support.kill import Victim, contents

Command = Callable[..., Answer]


@pytest.fixture
def held(store: Path, prefect_server: str) -> Iterator[Victim]:
    """A command that stands still in the middle of its rollout."""
    command = ("run", "iteration", "--config", "scripted-duo", "--run", "first", "--round", "1")
    victim = Victim(store, command, {"PREFECT_API_URL": prefect_server})
    victim.start()
    try:
        victim.wait_for("rollout")
        victim.process.send_signal(signal.SIGSTOP)
        yield victim
    finally:
        victim.process.kill()
        victim.process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("run", "what"),
    [
        pytest.param("first", "round 1 of run 'first'", marks=pytest.mark.slow),
        ("second", "rollout "),  # another run of the same configuration shares the artifact
    ],
)
def test_a_second_command_says_who_makes_it_since_when_and_then_shares_the_result(
    held: Victim, c3: Command, store: Path, prefect_server: str, run: str, what: str
) -> None:
    command = ("run", "iteration", "--config", "scripted-duo", "--run", run, "--round", "1", "--store", str(store))
    refused = c3(*command, env={"PREFECT_API_URL": prefect_server})
    assert (refused.code, refused.err.count("\n")) == (3, 1), refused.err
    assert refused.err.startswith(f"c3: {what}")
    assert f" is being made by process {held.process.pid} on " in refused.err
    assert " since 20" in refused.err
    assert "run the same command again, its result will be reused" in refused.err

    held.process.send_signal(signal.SIGCONT)
    held.finish()
    made = _artifacts(store)
    answer = c3(*command, env={"PREFECT_API_URL": prefect_server})
    assert answer.code == 0, answer.err
    assert _artifacts(store) == made
    steps = ("problems", "rollout", "freeze", "sample", "replay", "grade", "advantages", "update")
    receipt = {words[0]: words[1] for line in answer.out.splitlines() if (words := line.split()) and words[0] in steps}
    assert receipt == dict.fromkeys(steps, "0")  # parts made


def _artifacts(store: Path) -> dict[str, object]:
    return {name: file for name, file in contents(store).items() if name.startswith("artifacts/")}
