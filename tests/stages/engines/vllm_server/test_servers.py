"""The engine of many servers, over real HTTP on loopback: one clear outcome for each thing that goes wrong there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from configs.engines import VllmServerEngineConfig
from configs.errors import EngineError
from stages.engines.adapters import adapter_name
from stages.engines.protocol import Completion, Request, SamplingParameters
from stages.engines.vllm_server.servers import VllmServerEngine
from store.artifacts.policy_version import Adapter, PolicyVersion
from tests.support.fake_vllm_server import FakeServer, fake_server, message

MODEL = "house/model"
END = 2
PLAIN = SamplingParameters(1.0, 1.0, 0, 8)
UNTRAINED = PolicyVersion("v0", "base", {"team": Adapter("untrained", None)})


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a codec needs of a model: a tokenizer, a template and an end token."""
    folder = tmp_path_factory.mktemp("model")
    words = {f"w{index}": index + 3 for index in range(40)}
    Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "</s>": END, **words}, "<unk>")).save(
        str(folder / "tokenizer.json")
    )
    settings = {"eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m.content }} {% endfor %}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": END}))
    return folder


class Bench:
    """Servers, and engines over them, all closed at the end."""

    def __init__(self, stack: ExitStack, model_dir: Path) -> None:
        self._stack, self._model_dir = stack, model_dir

    def server(self, **settings: Any) -> FakeServer:
        return self._stack.enter_context(fake_server(**{"model": MODEL, **settings}))

    def engine(
        self, *servers: FakeServer, policy: PolicyVersion | None = UNTRAINED, **changes: Any
    ) -> VllmServerEngine:
        settings = {
            "initial_backoff_seconds": 0.02,
            "max_attempts": 3,
            "timeout_seconds": 5.0,
            "concurrency": 4,
            **changes,
        }
        config = VllmServerEngineConfig(
            model="house/model", urls=tuple(server.url for server in servers), served_model=MODEL, **settings
        )
        engine = VllmServerEngine(config, self._model_dir)
        self._stack.callback(engine.close)
        if policy is not None:
            engine.use(policy)
        return engine


@pytest.fixture
def bench(model_dir: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, model_dir)


def _request(seeds: int = 2, prompt: int = 5, sampling: SamplingParameters = PLAIN, policy: str = "team") -> Request:
    return Request(tuple(range(prompt)), tuple(range(100 * prompt, 100 * prompt + seeds)), sampling, policy)


def _expected(request: Request) -> list[Completion]:
    made = [message(seed, request.sampling.max_new_tokens, END) for seed in request.seeds]
    return [Completion(tuple(tokens), tuple(logprobs), finish) for tokens, logprobs, finish in made]  # type: ignore[arg-type]


def _trained(folder: Path, digest: str = "d1" * 16) -> PolicyVersion:
    return PolicyVersion(f"v{digest[:2]}", "base", {"team": Adapter(digest, folder)})


def test_each_seed_is_asked_for_with_its_token_ids_and_answers_come_back_in_order(bench: Bench) -> None:
    server = bench.server()
    requests = [_request(3, 5), _request(2, 7, SamplingParameters(1.0, 1.0, 0, 2))]
    told: list[int] = []
    assert bench.engine(server).generate(requests, told.append) == [_expected(request) for request in requests]
    assert sum(told) == 5
    assert sorted((tuple(body["prompt"]), body["seed"]) for body in server.asked) == [
        (request.prompt_ids, seed) for request in requests for seed in request.seeds
    ]
    assert {(body["model"], body["stop_token_ids"][0], body["temperature"]) for body in server.asked} == {
        (MODEL, END, 1.0)
    }


def test_seeds_of_64_bits_fit_what_a_server_takes(bench: Bench) -> None:
    server = bench.server()
    bench.engine(server).generate([Request((1,), (2**64 - 1,), PLAIN, "team")])
    assert server.asked[0]["seed"] == 2**63 - 1


def test_messages_spread_over_servers_and_those_of_a_prompt_stay_together(bench: Bench) -> None:
    servers = [bench.server(), bench.server(), bench.server()]
    requests = [_request(3, prompt) for prompt in range(1, 30)]
    assert bench.engine(*servers, concurrency=64).generate(requests) == [_expected(request) for request in requests]
    homes = {
        prompt: {server.url for server in servers for body in server.asked if len(body["prompt"]) == prompt}
        for prompt in range(1, 30)
    }
    assert all(len(found) == 1 for found in homes.values())  # none of them was ever full
    assert all(len(server.asked) >= 12 for server in servers)


def test_a_full_server_sends_messages_on_to_one_with_room(bench: Bench) -> None:
    servers = [bench.server(pause=0.02), bench.server(pause=0.02)]
    request = _request(20)  # one prompt: one home
    assert bench.engine(*servers).generate([request]) == [_expected(request)]
    assert all(len(server.asked) >= 6 for server in servers)


def test_no_server_gets_more_at_once_than_configured(bench: Bench) -> None:
    servers = [bench.server(pause=0.2), bench.server(pause=0.2)]  # long enough for three to meet on a busy machine
    bench.engine(*servers, concurrency=3).generate([_request(1, prompt) for prompt in range(1, 40)])
    assert [server.busiest for server in servers] == [3, 3]


PASSING = ["truncates", "not_json", "drops", "overloaded", "broken", "empty", "aborts"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_costs_one_more_request(bench: Bench, fault: Any) -> None:
    server = bench.server(faults=[fault])
    request = _request(4)
    assert bench.engine(server).generate([request]) == [_expected(request)]
    assert len(server.asked) == 5


def test_a_server_that_stalls_is_asked_again(bench: Bench) -> None:
    server = bench.server(faults=["stalls"])
    request = _request(1)
    assert bench.engine(server, timeout_seconds=0.4).generate([request]) == [_expected(request)]
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("truncates", "RemoteProtocolError"),
        ("not_json", "an answer that is no JSON"),
        ("drops", "Error"),
        ("stalls", "no answer in time (ReadTimeout)"),
        ("overloaded", "503: it is overloaded"),
        ("broken", "500: it is broken"),
        ("empty", "an answer without what was asked for (IndexError"),
        ("aborts", "finish_reason 'abort'"),
    ],
)
def test_a_lasting_fault_ends_in_one_line_after_the_attempts(bench: Bench, fault: Any, says: str) -> None:
    server = bench.server()
    engine = bench.engine(server, timeout_seconds=0.3)
    server.always = fault
    with pytest.raises(EngineError) as caught:
        engine.generate([_request(1)])
    line = str(caught.value)
    assert server.url in line and says in line and "3 attempts on 1 servers failed" in line and "\n" not in line


def test_a_server_that_refuses_connections_is_named(bench: Bench) -> None:
    server = bench.server()
    server.die()
    with pytest.raises(EngineError, match=rf"server {server.url}: ConnectError.*none of 1 servers"):
        bench.engine(server)


def test_a_server_that_dies_mid_part_costs_only_its_messages_in_flight(bench: Bench) -> None:
    dying, living = bench.server(pause=0.05), bench.server(pause=0.01)
    engine = bench.engine(dying, living)
    requests = [_request(1, prompt) for prompt in range(1, 50)]

    def kill_early(count: int) -> None:
        if dying.always is None and len(dying.asked) >= 6:
            dying.die()

    assert engine.generate(requests, kill_early) == [_expected(request) for request in requests]
    asked_twice = len(dying.asked) + len(living.asked) - len(requests)
    assert dying.always == "drops" and 0 < asked_twice <= 4 + 4  # its four in flight, and those that found it dead


def test_a_server_that_comes_back_is_used_again_with_its_adapters(bench: Bench, tmp_path: Path) -> None:
    server = bench.server()
    policy = _trained(tmp_path)
    engine = bench.engine(server, policy=policy, max_attempts=8, initial_backoff_seconds=0.05)
    engine.generate([_request(1)])
    server.die()
    restarting = time.monotonic()
    server.restart()
    request = _request(3, 7)
    assert engine.generate([request]) == [_expected(request)]
    assert time.monotonic() - restarting < 5
    assert list(server.adapters) == [adapter_name(policy.adapters["team"])]
    assert {body["model"] for body in server.asked[-3:]} == set(server.adapters)


def test_a_server_of_another_model_is_refused_by_name(bench: Bench) -> None:
    server = bench.server(model="other/model")
    with pytest.raises(EngineError, match=f"server {server.url}: serves other/model, not 'house/model'; name it in"):
        bench.engine(server)


def test_a_server_that_restarts_with_another_model_is_noticed(bench: Bench) -> None:
    server = bench.server()
    engine = bench.engine(server)
    engine.generate([_request(1)])
    server.die()
    server.model = "other/model"
    server.restart()
    with pytest.raises(EngineError, match="serves other/model, not 'house/model'"):
        engine.generate([_request(1)])


def test_adapters_are_loaded_once_and_leave_with_their_version(bench: Bench, tmp_path: Path) -> None:
    server = bench.server()
    first, second = _trained(tmp_path / "a", "a1" * 16), _trained(tmp_path / "b", "b2" * 16)
    engine = bench.engine(server, policy=first)
    for _ in range(3):
        engine.use(first)
        engine.generate([_request(4)])
    assert server.adapters == {adapter_name(first.adapters["team"]): str((tmp_path / "a").resolve())}
    assert server.calls["/v1/load_lora_adapter"] == 1
    engine.use(second)
    engine.generate([_request(4)])
    assert list(server.adapters) == [adapter_name(second.adapters["team"])]
    assert {body["model"] for body in server.asked[-4:]} == {adapter_name(second.adapters["team"])}


def test_each_policy_answers_with_its_own_adapter(bench: Bench, tmp_path: Path) -> None:
    server = bench.server()
    adapters = {name: Adapter(name * 20, tmp_path / name) for name in ("plans", "answers")}
    policy = PolicyVersion("v1", "base", {**adapters, "frozen": Adapter("untrained", None)})
    engine = bench.engine(server, policy=policy)
    engine.generate([_request(1, 5, policy=name) for name in ("plans", "answers", "frozen")])
    assert {body["model"] for body in server.asked} == {MODEL, *(adapter_name(a) for a in adapters.values())}


def test_an_adapter_another_process_has_loaded_is_as_good(bench: Bench, tmp_path: Path) -> None:
    policy = _trained(tmp_path)
    server = bench.server(adapters={adapter_name(policy.adapters["team"]): "anywhere"})
    request = _request(1)
    assert bench.engine(server, policy=policy).generate([request]) == [_expected(request)]


def test_a_rejected_adapter_is_one_line_with_its_path_and_the_reason(bench: Bench, tmp_path: Path) -> None:
    server = bench.server(rejects_adapters=True)
    with pytest.raises(EngineError, match=rf"refuses adapter {tmp_path}: .*LoRA rank 64 is greater .*--max-lora-rank"):
        bench.engine(server, policy=_trained(tmp_path))


def test_a_server_that_allows_no_adapters_says_how_to_allow_them(bench: Bench, tmp_path: Path) -> None:
    server = bench.server(adapters_allowed=False)
    with pytest.raises(EngineError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        bench.engine(server, policy=_trained(tmp_path))


def test_a_prompt_past_the_window_is_not_sent(bench: Bench) -> None:
    server = bench.server(window=64)
    with pytest.raises(
        EngineError, match="a prompt of 60 tokens and 8 new ones are 68, past the servers' window of 64"
    ):
        bench.engine(server).generate([_request(1, 60)])
    assert server.asked == []


def test_what_a_server_refuses_for_good_is_not_asked_twice(bench: Bench) -> None:
    server = bench.server(always="refuses")
    with pytest.raises(EngineError, match="refuses a prompt of 5 tokens and 8 new ones: This model's maximum"):
        bench.engine(server).generate([_request(1)])
    assert len(server.asked) == 1


def test_a_server_that_wants_a_key_says_where_to_put_it(bench: Bench) -> None:
    server = bench.server(always="key")
    with pytest.raises(EngineError, match="401: it is key; put the server's key into VLLM_API_KEY"):
        bench.engine(server).generate([_request(1)])
    assert len(server.asked) == 1


def test_log_probs_of_raw_logits_are_refused_where_they_differ(bench: Bench) -> None:
    cold = SamplingParameters(0.5, 1.0, 0, 8)
    honest, raw = bench.server(), bench.server(processed=False)
    assert bench.engine(honest).generate([_request(2, sampling=cold)])
    assert bench.engine(raw).generate([_request(2)])  # at temperature 1 they are the same
    with pytest.raises(EngineError, match="--logprobs-mode processed_logprobs"):
        bench.engine(raw).generate([_request(2, sampling=cold)])


def test_after_a_fault_for_good_nothing_more_is_begun(bench: Bench) -> None:
    server = bench.server(faults=["refuses"], pause=0.02)
    with pytest.raises(EngineError, match="refuses a prompt"):
        bench.engine(server, concurrency=2).generate([_request(1, prompt) for prompt in range(1, 50)])
    assert len(server.asked) < 10
