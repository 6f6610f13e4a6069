"""A round by a vLLM server that fails in the middle of it: what is told, what is kept, and how the round goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.engines import VllmServerEngineConfig
from configs.errors import EngineError
from configs.schema import Config, PartsConfig
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.conftest import Answer
from tests.support.fake_vllm_server import FakeServer, fake_server
from tests.support.kill import contents, finished_parts
from tests.support.rounds import PlayedRound, drive
from tests.support.tiny_models import LETTERS, write_tiny_model
from tests.support.worlds import duo

MODEL = "house/letters"
PER_PROBLEM = {"rollout": 2 * 2, "sample": 2 * 3}
"""Messages: two transcripts of two roles, then three more answers to each of the two first messages."""
PROBLEMS = 4
FAULTS = [("dies", 6, "ConnectError"), ("truncates", 6, "RemoteProtocolError"), ("dies", 24, "ConnectError")]
"""What it does, after how many messages (in the rollout's second part, or in the sample's), and what is told."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server(model=MODEL, window=400) as server:
        yield server


def _config(model: Path, server: FakeServer) -> Config:
    """A part is a problem. The server makes log-probs up, so nothing compares them with a trainer's."""
    engine = VllmServerEngineConfig(
        model=str(model),
        urls=(server.url,),
        served_model=MODEL,
        engine_check=False,
        max_attempts=2,
        initial_backoff_seconds=0.02,
        concurrency=2,
    )
    roles = tuple(role.model_copy(update={"max_new_tokens": 1}) for role in duo().roles)
    words = tuple(LETTERS[:26])
    return duo(engine=engine, roles=roles, parts=PartsConfig(problems_per_part=1), problems=PROBLEMS, words=words)


def _undisturbed(store: Path, model: Path) -> PlayedRound:
    with fake_server(model=MODEL, window=400) as server:
        round = drive(store, _config(model, server), until="advantages")
    assert len(server.asked) == PROBLEMS * sum(PER_PROBLEM.values())
    return round


def _left(lasts: int) -> int:
    """Messages of the parts that are not finished when a server stops after so many, made one after the other."""
    finished = 0
    for size in [PER_PROBLEM[stage] for stage in PER_PROBLEM for _ in range(PROBLEMS)]:
        if finished + size > lasts:
            break
        finished += size
    return PROBLEMS * sum(PER_PROBLEM.values()) - finished


@pytest.mark.parametrize(("then", "lasts", "said"), FAULTS)
def test_a_round_goes_on_from_the_part_in_which_its_server_failed(
    model: Path, server: FakeServer, tmp_path: Path, then: Any, lasts: int, said: str
) -> None:
    server.lasts, server.then = lasts, then
    config, store = _config(model, server), tmp_path / "store"
    with pytest.raises(EngineError) as caught:
        drive(store, config, until="advantages")
    line = str(caught.value)
    assert server.url in line and said in line and "\n" not in line
    kept = finished_parts(store)

    before = len(server.asked)
    _come_back(server)
    again = drive(store, config, until="advantages")
    assert len(server.asked) - before == _left(lasts)
    after = finished_parts(store)
    assert {path: after[path] for path in kept} == kept
    expected = _undisturbed(tmp_path / "undisturbed", model)
    for step, artifact in expected.artifacts.items():
        assert again.artifacts[step].digest == artifact.digest, step
    assert len({row["reward"] for row in again.rows("rewards")}) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("then", "lasts", "said"), FAULTS[:2])
def test_the_command_ends_with_exit_code_4_and_the_same_command_goes_on(
    model: Path, server: FakeServer, tmp_path: Path, c3: Callable[..., Answer], then: Any, lasts: int, said: str
) -> None:
    server.lasts, server.then = lasts, then
    store = tmp_path / "store"
    record_config(Layout(store), "test", 1, _config(model, server).model_dump(mode="json"))
    command = ("run", "iteration", "--run", "test", "--round", "1", "--until", "advantages", "--store", str(store))
    answer = c3(*command)
    assert answer.code == 4
    assert answer.err.startswith(f"c3: server {server.url}: ") and said in answer.err
    assert answer.err.count("\n") == 1
    before = len(server.asked)
    _come_back(server)
    answer = c3(*command)
    assert (answer.code, answer.err) == (0, "")
    assert len(server.asked) - before == _left(lasts)
    made, expected = contents(store), contents(_undisturbed(tmp_path / "undisturbed", model).store)
    parquet = {name: content for name, content in expected.items() if name.endswith(".parquet")}
    assert parquet and {name: made[name] for name in parquet} == parquet


def _come_back(server: FakeServer) -> None:
    if server.then == "dies":
        server.restart()
    server.always = None
