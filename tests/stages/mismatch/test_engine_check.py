"""The probe before a round's first message: servers over real HTTP with a real (tiny) model behind, told to go wrong."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from configs.engines import VllmServerEngineConfig
from configs.errors import EngineError, EngineUnreachableError
from configs.schema import Config, SamplingConfig
from configs.training import PolicyConfig, UpdateConfig
from pipeline.commands.doctor import Checked, examine
from pipeline.execution.context import ExecutionContext, process_resources
from pipeline.execution.limits import Limits
from pipeline.execution.remote import check_shared_engine, part_task, run_part_task
from pipeline.execution.runner import StepRun
from pipeline.rounds.resolve import StepResolver
from pipeline.rounds.state import StepState
from pipeline.steps import step_named
from stages.base.resources import Resources
from stages.engines.adapters import adapter_name
from stages.engines.protocol import Request, SamplingParameters
from stages.engines.transformers.engine import TransformersEngine
from stages.learners.lora.learner import LoraLearner
from stages.mismatch.engine_check import Agreement, nearer_untrained
from stages.models.adapter_files import adapter_digest
from stages.models.identity import base_digest
from store.artifacts.artifact import Artifact
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from store.artifacts.writer import open_writer
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.conftest import Answer
from tests.support.fake_vllm_server import FakeServer, Said, fake_server
from tests.support.rounds import resolver_of
from tests.support.tiny_models import END, TARGETS, VOCABULARY, tiny_model
from tests.support.worlds import duo

MODEL = "house/tiny"
POLICY = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS["llama"])


def test_a_gap_past_the_bound_names_the_likely_causes() -> None:
    assert Agreement(10, 0.001, 0.01).complaint(0.002) is None
    said = Agreement(10, 0.003, 0.01).complaint(0.002)
    assert said is not None and "0.003 nats a token" in said and "update.max_logprob_mismatch = 0.002" in said
    assert "another adapter under this one's name, another base model or dtype" in said
    assert Agreement(10, float("nan"), 0.01).complaint(0.002) is not None


def test_an_engine_is_nearer_to_the_untrained_model_only_beyond_chance() -> None:
    # the adapter moves every token's log-prob by .05; arithmetic by .1, up and down in turn. The mean gap to the right weights
    # is .1, to the untrained ones (.15 + .05) / 2 = .1 too. In squares, forgot: (.15^2 - .1^2 + .05^2 - .1^2) / 2 = .0025
    # on average, .01 around it: five standard errors (.01 / sqrt n) of it from n = 400 on
    noise = [0.1 * (-1) ** place for place in range(420)]
    untrained, trainer = [[-1.0] * 420], [[-1.05] * 420]
    forgot = [[-1.0 + by for by in noise]]
    applied = [[-1.05 + by for by in noise]]
    assert nearer_untrained(forgot, trainer, untrained)
    assert not nearer_untrained(applied, trainer, untrained)
    assert not nearer_untrained([forgot[0][:380]], [trainer[0][:380]], [untrained[0][:380]])  # not sure yet
    assert not nearer_untrained(untrained, untrained, untrained)  # an adapter that does nothing yet


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a directory, with a tokenizer of as many words."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    words = {"<unk>": 0, **{f"w{index}": index for index in range(1, VOCABULARY - 1)}, "</s>": END}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m.content }} {% endfor %}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters that change what is said, and one that hardly does."""
    found = {}
    for seed, (name, spread) in enumerate((("right", 0.3), ("wrong", 0.3), ("young", 0.03))):
        learner = LoraLearner(tiny_model(), {"team": POLICY})
        learner.load(initial_policy("base", ["team"]), seed)
        with torch.no_grad():
            for index, (_, parameter) in enumerate(learner.named_parameters("team")):
                generator = torch.Generator().manual_seed(100 * seed + index)
                parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
        found[name] = learner.save(tmp_path_factory.mktemp(name))["team"]
    return found


class Model:
    """The tiny model behind a server. `deaf`: it takes adapters and does not use them. `base`: an adapter merged for good."""

    def __init__(self, deaf: bool = False, base: Path | None = None) -> None:
        self._deaf, self._base = deaf, base

    def __call__(self, body: dict[str, Any], adapter: str | None) -> Said:
        path = self._base if adapter is None or self._deaf else Path(adapter)
        sampling = SamplingParameters(body["temperature"], body["top_p"], body["top_k"], body["max_tokens"])
        with _ONE_AT_A_TIME:
            return _sampled(Request(tuple(body["prompt"]), (body["seed"],), sampling, "team"), path)


_ONE_AT_A_TIME = threading.Lock()


@cache
def _sampled(request: Request, adapter: Path | None) -> Said:
    engine = _engine()
    engine.use(PolicyVersion(str(adapter), "base", {"team": Adapter(str(adapter), adapter)}))
    [[said]] = engine.generate([request])
    return list(said.token_ids), list(said.logprobs), said.finish_reason


@cache
def _engine() -> TransformersEngine:
    return TransformersEngine(tiny_model(), [END])


class Bench:
    """Servers, and one round's rollout by them under an adapter."""

    def __init__(self, stack: ExitStack, model_dir: Path, store: Path) -> None:
        self._stack, self._model_dir, self.layout = stack, model_dir, Layout(store)
        self.resources = Resources()
        stack.callback(self.resources.close)

    def server(self, deaf: bool = False, base: Path | None = None, **settings: Any) -> FakeServer:
        """A server of the tiny model."""
        return self._stack.enter_context(fake_server(model=MODEL, window=96, speak=Model(deaf, base), **settings))

    def rollout(self, *servers: FakeServer, adapter: Path | None, seed: int = 0, **changes: Any) -> Artifact:
        """The decisions of a round whose policy is that adapter."""
        return self._make(self.state(*servers, adapter=adapter, seed=seed, **changes))

    def state(self, *servers: FakeServer, adapter: Path | None, seed: int = 0, **changes: Any) -> StepState:
        """The rollout of that round, not made yet; the problems are."""
        config = self._config([server.url for server in servers], seed, changes)
        record_config(self.layout, "test", 1, config.model_dump(mode="json"))
        resolver = resolver_of(self.layout.root, "test", 1)
        policy = initial_policy(base_digest(config.engine), ["team"])
        if adapter is not None:
            policy = PolicyVersion("v1", policy.base, {"team": Adapter(adapter_digest(adapter), adapter)})
        resolver = StepResolver(replace(resolver.round, policy=policy))
        problems = self._make(resolver.resolve(step_named("problems"), {}))
        return resolver.resolve(step_named("rollout"), {"problems": problems})

    def _make(self, state: StepState) -> Artifact:
        resolver, context = resolver_of(self.layout.root, "test", 1), ExecutionContext(resources=self.resources)
        return StepRun(resolver, state, context).make_here()

    def config(self, *servers: FakeServer) -> Config:
        """A run of these servers."""
        return self._config([server.url for server in servers], 0, {})

    def _config(self, urls: list[str], seed: int, changes: dict[str, Any]) -> Config:
        update = UpdateConfig(**({"max_logprob_mismatch": changes.pop("bound")} if "bound" in changes else {}))
        settings = {
            "initial_backoff_seconds": 0.02,
            "max_attempts": 2,
            "timeout_seconds": 30.0,
            "concurrency": 4,
            **changes,
        }
        engine = VllmServerEngineConfig(
            model=str(self._model_dir), dtype="float32", urls=tuple(urls), served_model=MODEL, **settings
        )
        return duo(
            engine=engine,
            policies={"team": POLICY},
            update=update,
            sampling=SamplingConfig(max_new_tokens=9),
            seed=seed,
        )


@pytest.fixture
def bench(model_dir: Path, store: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, model_dir, store)


def _of_round(server: FakeServer) -> list[dict[str, Any]]:
    """What it was asked for beyond the probe, whose messages are 24 tokens at most."""
    return [body for body in server.asked if body["max_tokens"] != 24]


def test_a_round_goes_on_where_engine_and_trainer_agree(bench: Bench, adapters: dict[str, Path]) -> None:
    servers = [bench.server(), bench.server()]
    rollout = bench.rollout(*servers, adapter=adapters["right"])
    assert len(rollout.rows("decisions")) == sum(len(_of_round(server)) for server in servers)
    assert [len(server.asked) - len(_of_round(server)) for server in servers] == [16, 16]  # four prompts, four seeds


def test_a_probe_is_made_once_for_a_policy_version(bench: Bench, adapters: dict[str, Path]) -> None:
    server = bench.server()
    bench.rollout(server, adapter=adapters["right"])
    probed = len(server.asked) - len(_of_round(server))
    bench.rollout(server, adapter=adapters["right"], seed=1)
    assert len(_of_round(server)) == 2 * 16 and len(server.asked) - len(_of_round(server)) == probed


def test_another_adapter_under_the_right_name_stops_the_round_before_its_first_message(
    bench: Bench, adapters: dict[str, Path]
) -> None:
    name = adapter_name(Adapter(adapter_digest(adapters["right"]), adapters["right"]))
    right, wrong = bench.server(), bench.server(adapters={name: str(adapters["wrong"])})
    with pytest.raises(EngineError) as caught:
        bench.rollout(right, wrong, adapter=adapters["right"])
    line = str(caught.value)
    assert line.startswith(f"server {wrong.url}: its log-probs are ") and "\n" not in line
    assert "past update.max_logprob_mismatch = 0.002. Likely: another adapter under this one's name" in line
    assert "nothing was sampled under policy v1. `c3 doctor` looks again" in line
    assert _of_round(right) == _of_round(wrong) == []


def test_an_adapter_that_is_not_used_is_told_even_where_the_bound_would_pass_it(
    bench: Bench, adapters: dict[str, Path]
) -> None:
    server = bench.server(deaf=True)
    with pytest.raises(EngineError, match=r"it samples policy 'team' from the untrained model, not with its adapter"):
        bench.rollout(server, adapter=adapters["young"], bound=5.0)
    assert _of_round(server) == []
    assert bench.rollout(bench.server(), adapter=adapters["young"], bound=5.0).rows("decisions")


def test_another_base_model_stops_the_first_round(bench: Bench, adapters: dict[str, Path]) -> None:
    server = bench.server(base=adapters["wrong"])
    with pytest.raises(EngineError, match="another base model or dtype"):
        bench.rollout(server, adapter=None)
    assert bench.rollout(bench.server(), adapter=None).rows("decisions")


def test_without_the_probe_nothing_is_asked_before(bench: Bench, adapters: dict[str, Path]) -> None:
    server = bench.server(deaf=True)
    assert bench.rollout(server, adapter=adapters["right"], engine_check=False).rows("decisions")
    assert len(server.asked) == len(_of_round(server))


def test_a_server_that_is_down_is_left_to_the_engine_unless_it_is_the_only_one(
    bench: Bench, adapters: dict[str, Path]
) -> None:
    down, up = bench.server(), bench.server()
    down.die()
    with pytest.raises(EngineUnreachableError, match=f"server {down.url}: ConnectError"):
        bench.rollout(down, adapter=adapters["right"])
    assert bench.rollout(down, up, adapter=adapters["right"]).rows("decisions")


def test_workers_rely_on_the_probe_of_the_command(bench: Bench, adapters: dict[str, Path]) -> None:
    server = bench.server(deaf=True)
    look = bench.state(server, adapter=adapters["right"])
    with pytest.raises(EngineError, match="nothing was sampled"):
        check_shared_engine(look, bench.resources)
    probed = len(server.asked)
    part = look.step.stage.cut(look.job)[0]
    with open_writer(bench.layout, "rollout", look.key):
        run_part_task(part_task(look, bench.layout, part, Limits()))  # as a worker does, which has resources of its own
    process_resources().close()
    assert len(server.asked) - probed == len(_of_round(server)) > 0


def test_the_doctor_tells_what_each_server_lacks(bench: Bench, adapters: dict[str, Path]) -> None:
    closed, other, good = bench.server(adapters_allowed=False), bench.server(base=adapters["wrong"]), bench.server()
    found: dict[str, list[Checked]] = defaultdict(list)
    for checked in examine(bench.config(closed, other, good)):
        found[checked.what].append(checked)
    assert list(found) == [f"server {server.url}" for server in (closed, other, good)]
    without, apart, well = found.values()
    assert [checked.good for checked in without] == [
        True,
        False,
    ]  # not asked for messages that it could not be trained by
    assert "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in without[-1].said and closed.asked == []
    assert [checked.good for checked in apart] == [True, True, False]
    assert "nats a token from the trainer's on average, past update.max_logprob_mismatch = 0.002" in apart[-1].said
    assert [checked.good for checked in well] == [True, True, True]
    assert all("\n" not in checked.said for checks in found.values() for checked in checks)


def test_the_doctor_looks_at_the_adapters_of_a_policy(bench: Bench, adapters: dict[str, Path]) -> None:
    deaf, good = bench.server(deaf=True), bench.server()
    config = bench.config(deaf, good)
    right = Adapter(adapter_digest(adapters["right"]), adapters["right"])
    *_, last = examine(config, PolicyVersion("v1", base_digest(config.engine), {"team": right}))
    assert last.good and list(good.adapters) == [adapter_name(right)]
    [bad] = [c for c in examine(config, PolicyVersion("v1", base_digest(config.engine), {"team": right})) if not c.good]
    assert bad.what == f"server {deaf.url}" and "from the untrained model, not with its adapter" in bad.said


def test_a_check_that_fails_is_exit_code_4_and_one_that_does_not_is_0(bench: Bench, c3: Callable[..., Answer]) -> None:
    server = bench.server(adapters_allowed=False)
    record_config(bench.layout, "test", 1, bench.config(server).model_dump(mode="json"))
    command = ("doctor", "--run", "test", "--store", str(bench.layout.root))
    answer = c3(*command)
    first, second = answer.out.splitlines()
    assert (answer.code, answer.err) == (4, "")
    assert first == f"ok   server {server.url}: answers, and serves the model"
    assert second.startswith(f"bad  server {server.url}: ") and "--enable-lora" in second
    assert c3("doctor", "--config", "scripted-duo").code == 0
