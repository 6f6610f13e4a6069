"""Real vLLM on a CPU, in process and as a server: rounds, adapters, faults, and how far the engines are apart.

One engine and one server for the file, because each takes a minute to start; they start at the same time, on a core each.
All of it in float32, so that a gap is a mistake and not rounding.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from configs.engines import ModelEngineConfig
from configs.errors import EngineError
from configs.load import load_config
from configs.schema import Config
from pipeline.commands.doctor import examine
from pipeline.execution.context import ExecutionContext
from pipeline.execution.runner import RoundRunner
from pipeline.rounds.resolve import StepResolver
from pipeline.steps import ROUND
from stages.base.resources import Resources
from stages.engines.adapters import adapter_name
from stages.engines.protocol import Completion, Engine, Request, SamplingParameters
from stages.engines.registry import make_engine
from stages.learners.protocol import Learner
from stages.learners.registry import make_learner
from stages.models.adapter_files import CONFIG_FILE, TENSOR_FILE, adapter_digest, write_adapter
from stages.models.identity import base_digest, model_path
from store.artifacts.artifact import Artifact, Row
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from store.disk.layout import Layout
from store.runs.records import record_config
from tests.conftest import ROOT
from tests.support.kill import end
from tests.support.rounds import drive, resolver_of

pytestmark = pytest.mark.slow
pytest.importorskip("vllm", reason="vLLM is not installed; `make setup-vllm` installs its CPU build")

WINDOW = 512
SERVER_START_SECONDS = 900
CONTEXTS = 50
SMALL = (
    *(
        "rounds.problems_per_round=6",
        "parts.problems_per_part=3",
    ),  # few, but some of them with a signal: the update must move the weights
    *("update.minibatches=2", "update.learning_rate=3e-3", "engine.dtype=float32"),
    'policies={"plans"={lora_rank=8},"answers"={lora_rank=8}}',  # on a CPU vLLM's time with adapters grows with the rank
    'roles.reasoner.policy="plans"',
    'roles.actor.policy="answers"',
)
IN_PROCESS = (
    *("engine.kind=vllm", "engine.enforce_eager=true", f"engine.max_model_len={WINDOW}", "engine.cpu_cache_gib=1"),
    "engine.max_lora_rank=8",
)


def _config(*overrides: str) -> Config:
    return load_config("arithmetic-duo", [*SMALL, *overrides])


@dataclass
class Starting:
    """A server's address, and what it says while it starts."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Played:
    """Two rounds, sampled by two policy versions."""

    resolver: StepResolver
    first: dict[str, Artifact]
    second: dict[str, Artifact]


class Watching(Resources):
    """Notes how many of this process's own vLLM processes there are each time a learner is handed out."""

    def __init__(self, server: int) -> None:
        super().__init__()
        self._server = server
        self.beside_learner: list[tuple[bool, int]] = []
        """Whether the engine was to stay, and the processes that were there."""

    def learner(self, config: Config, beside_engine: bool = False) -> Learner:
        """Of the tools that are watched."""
        learner = super().learner(config, beside_engine)
        others = {self._server, *(child.pid for child in psutil.Process(self._server).children(recursive=True))}
        mine = [child for child in psutil.Process().children(recursive=True) if child.pid not in others]
        self.beside_learner.append((beside_engine, sum("EngineCore" in child.name() for child in mine)))
        return learner


def _play(store: Path, config: Config, resources: Resources, until: str) -> Played:
    """The first round, and the second as far as `until`."""
    record_config(Layout(store), "test", 1, config.model_dump(mode="json"))
    first = _steps(resolver_of(store, "test", 1), resources, "update")
    return Played(resolver_of(store, "test", 1), first, _steps(resolver_of(store, "test", 2), resources, until))


def _steps(
    resolver: StepResolver, resources: Resources, until: str, policy: PolicyVersion | None = None
) -> dict[str, Artifact]:
    """The round's steps as far as `until`, under its own policy version or the one given."""
    resolver = StepResolver(replace(resolver.round, policy=policy))
    runner = RoundRunner(resolver, ExecutionContext(resources=resources))
    for step in ROUND.until(until):
        runner.run(step)
    return runner.artifacts


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starting]:
    """A real vLLM server on loopback, on its way."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(model_path(_config().engine)), "--dtype", "float32", "--enforce-eager"]  # type: ignore[arg-type]
    command += ["--max-model-len", str(WINDOW), "--enable-lora", "--max-lora-rank", "8", "--max-loras", "4"]
    command += ["--logprobs-mode", "processed_logprobs"]
    environment = {
        **os.environ,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": "2",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Starting(f"http://127.0.0.1:{port}", process, log)
    finally:
        end(process)


@pytest.fixture(scope="module")
def resources(starting: Starting) -> Iterator[Watching]:
    """The process's engine is made with these."""
    resources = Watching(starting.process.pid)
    yield resources
    resources.close()


@pytest.fixture(scope="module")
def server(starting: Starting) -> str:
    """The address of the server, once it is there."""
    _await(starting.url, starting.process, starting.log)
    return starting.url


@pytest.fixture(scope="module")
def untrained() -> PolicyVersion:
    """The team before any update."""
    config = _config()
    return initial_policy(base_digest(config.engine), list(config.policies))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, untrained: PolicyVersion) -> PolicyVersion:
    """The team with adapters that change what is said: those of the trainer, B drawn at random."""
    folder, random = tmp_path_factory.mktemp("update_rows"), np.random.default_rng(0)
    learner = make_learner(_config())
    learner.load(untrained, 0)
    adapters = {}
    for name, written in learner.save(folder / "zero").items():
        drawn = {
            key: (random.normal(0, 0.01, value.shape) if ".lora_B." in key else value).astype(np.float32)
            for key, value in load_file(written / TENSOR_FILE).items()
        }
        write_adapter(folder / name, json.loads((written / CONFIG_FILE).read_text()), drawn)
        adapters[name] = Adapter(adapter_digest(folder / name), folder / name)
    return PolicyVersion("trained", untrained.base, adapters)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError(f"the server did not start: {log.read_text(errors='replace')[-3000:]}")


def _served(url: str) -> tuple[str, ...]:
    return ("engine.kind=vllm_server", f"engine.urls=['{url}']", "engine.initial_backoff_seconds=0.1")


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """50 contexts of both roles, as another engine froze them."""
    overrides = (
        "plan={kind='episodes',budget=1}",
        f"rounds.problems_per_round={CONTEXTS // 2}",
        "parts.problems_per_part=25",
    )
    ran = drive(tmp_path_factory.mktemp("frozen"), _config(*overrides), until="freeze")
    contexts = ran.artifacts["freeze"].rows("contexts")[:CONTEXTS]
    assert len(contexts) == CONTEXTS
    return contexts


def test_three_engines_agree_on_fifty_frozen_contexts(
    starting: Starting,
    frozen: list[Row],
    trained: PolicyVersion,
    untrained: PolicyVersion,
    resources: Resources,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_process = resources.engine(_config(*IN_PROCESS), untrained)  # meanwhile the server starts
    server = request.getfixturevalue("server")
    policy_of = {"reasoner": "plans", "actor": "answers"}
    greedy = SamplingParameters(0.0, 1.0, 0, 12)
    requests = [Request(tuple(row["token_ids"]), (0,), greedy, policy_of[row["role"]]) for row in frozen]
    engines: dict[str, ModelEngineConfig] = {
        "transformers": _config().engine,  # type: ignore[dict-item]
        "vllm_server": _config(*_served(server)).engine,  # type: ignore[dict-item]
    }
    said: dict[tuple[str, str], list[Completion]] = {}
    made = {name: make_engine(config) for name, config in engines.items()}
    made["vllm"] = in_process
    for adapter, policy in (("off", untrained), ("on", trained)):
        for name, engine in made.items():
            engine.use(policy)
            said[name, adapter] = [completions[0] for completions in engine.generate(requests)]
    lines = ["", "float32, greedy, 50 contexts     adapter  same messages  mean gap  largest gap (nats, equal tokens)"]
    for adapter in ("off", "on"):
        for one, other in (("vllm", "transformers"), ("vllm_server", "transformers"), ("vllm", "vllm_server")):
            same, apart = _compare(said[one, adapter], said[other, adapter])
            lines.append(f"{one + ' / ' + other:<32} {adapter:<8} {same:>10}/50  {fmean(apart):.1e}  {max(apart):.1e}")
            assert same >= 48 and fmean(apart) < 1e-3, lines
    with capsys.disabled():
        print("\n".join(lines))
    for name in made:  # the adapter is seen by each
        _, logprob_mismatch = _compare(said[name, "on"], said[name, "off"])
        assert fmean(logprob_mismatch) > 0.01, name
    for name in engines:
        made[name].close()


def _compare(ours: Sequence[Completion], theirs: Sequence[Completion]) -> tuple[int, list[float]]:
    """Equal messages, and gaps of log-probs as far as the tokens are equal."""
    logprob_mismatch = []
    for mine, other in zip(ours, theirs, strict=True):
        for token, also, logprob, against in zip(
            mine.token_ids, other.token_ids, mine.logprobs, other.logprobs, strict=False
        ):
            if token != also:
                break
            logprob_mismatch.append(abs(logprob - against))
    return sum(a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True)), logprob_mismatch


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory, resources: Watching) -> Played:
    """With memory given back for the update: vLLM is shut down, and starts again for the second round."""
    return _play(tmp_path_factory.mktemp("vllm"), _config(*IN_PROCESS), resources, "update")


@pytest.fixture(scope="module")
def by_server(tmp_path_factory: pytest.TempPathFactory, server: str) -> Played:
    resources = Resources()
    played = _play(tmp_path_factory.mktemp("served"), _config(*_served(server)), resources, "rollout")
    resources.close()
    return played


def _gaps(round: dict[str, Artifact], role: str) -> list[float]:
    """Engine against trainer, on every token of a role that the update recomputed."""
    behaviour = {
        row["decision_id"]: row["behaviour_logprobs"]
        for step in ("rollout", "sample", "replay")
        for row in round[step].rows("decisions")
    }
    return [
        abs(ours - theirs)
        for row in round["update"].rows("update_rows")
        if row["role"] == role and row["policy_logprobs"] is not None
        for ours, theirs in zip(row["policy_logprobs"], behaviour[row["decision_id"]], strict=True)
    ]


def _check_played(played: Played) -> None:
    for round in (played.first, played.second):
        for role in ("reasoner", "actor") if "update" in round else ():
            logprob_mismatch = _gaps(round, role)
            assert len(logprob_mismatch) > 20
            assert fmean(logprob_mismatch) < 1e-3 and max(logprob_mismatch) < 0.02
    before, after = played.resolver.policy_before, played.resolver.policy_after
    assert {row["policy_version"] for row in played.first["rollout"].rows("decisions")} == {before.version}
    second = played.second["rollout"].rows("decisions")
    assert {row["policy_version"] for row in second} == {after.version} != {before.version}
    assert len({adapter.digest for adapter in after.adapters.values()}) == 2
    assert {row["policy"] for row in second} == {"plans", "answers"}


def test_a_duo_round_in_process_samples_what_the_trainer_trains(in_process: Played) -> None:
    _check_played(in_process)


def test_vllm_is_gone_while_the_trainer_trains(in_process: Played, resources: Watching) -> None:
    assert "update" in in_process.second
    # the probe before a round needs both; the update wants the memory
    assert {there for stays, there in resources.beside_learner if not stays} == {0}
    assert {there for stays, there in resources.beside_learner if stays} == {1}


def test_a_duo_round_by_a_server_samples_what_the_trainer_trains(by_server: Played) -> None:
    _check_played(by_server)


def test_the_second_round_is_sampled_with_the_trained_adapters(in_process: Played, by_server: Played) -> None:
    for played in (in_process, by_server):
        transformers = make_engine(_config().engine)
        requests, stored = _requests_of(played.second["rollout"], played.resolver)
        for policy, close in ((played.resolver.policy_after, True), (played.resolver.policy_before, False)):
            gap = _scored_gap(transformers, policy, requests, stored)
            assert (gap < 1e-3) == close, gap


def _requests_of(rollout: Artifact, resolver: StepResolver) -> tuple[list[Row], list[Row]]:
    """The first role's decisions and the prompts they answered."""
    from stages.episodes.state import State, render
    from stages.problem_sources.protocol import Problem

    config = resolver.round.config
    engine_codec = Resources().codec(config)
    problems = {
        row["problem_id"]: Problem(**row) for row in resolver.resolve_steps().artifacts["problems"].rows("problems")
    }
    rows = [row for row in rollout.rows("decisions") if row["depth"] == 1]
    prompts = [render(config.roles[0], State(problems[row["problem_id"]], (), ()), engine_codec) for row in rows]
    return [{"prompt_ids": tuple(ids)} for ids in prompts], rows


def _scored_gap(engine: Engine, policy: PolicyVersion, prompts: Sequence[Row], stored: Sequence[Row]) -> float:
    """Mean gap of the tokens' log-probs where another engine's model is asked for the same ones."""
    logprob_mismatch = []
    for prompt, row in zip(prompts, stored, strict=True):
        ours = _scored(engine, policy.adapters["plans"], prompt["prompt_ids"], row["token_ids"])
        logprob_mismatch += [abs(own - theirs) for own, theirs in zip(ours, row["behaviour_logprobs"], strict=True)]
    return fmean(logprob_mismatch)


def _scored(
    engine: Engine,
    adapter: Adapter,
    prompt: Sequence[int],
    tokens: Sequence[int],
    temperature: float = 1.0,
    top_k: int = 0,
) -> list[float]:
    """Log-probs of tokens, by a transformers engine's own model, among the `top_k` likeliest at that temperature."""
    import torch

    from stages.models.lora_merge import MergedWeights

    weights: MergedWeights = engine._weights  # type: ignore[attr-defined]
    weights.show(adapter)
    with torch.no_grad():
        logits_TV = engine._model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0].float()  # type: ignore[attr-defined]
    logits_TV = logits_TV[len(prompt) - 1 : -1] / temperature
    if top_k:
        least_T = logits_TV.topk(top_k).values[:, -1:]
        logits_TV = logits_TV.masked_fill(logits_TV < least_T, -torch.inf)
    found: list[float] = logits_TV.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
    return found


@pytest.mark.parametrize("where", ["vllm", "vllm_server"])
def test_messages_are_drawn_by_their_seeds_from_the_distribution_that_was_asked_for(
    where: str, frozen: list[Row], trained: PolicyVersion, resources: Resources, server: str
) -> None:
    asked = SamplingParameters(temperature=0.7, top_p=1.0, top_k=5, max_new_tokens=8)
    seeds = (11, 12, 13, 11)
    requests = [Request(tuple(row["token_ids"]), seeds, asked, "plans") for row in frozen[:6]]
    served = make_engine(_config(*_served(server)).engine)
    engine = resources.engine(_config(*IN_PROCESS), trained) if where == "vllm" else served
    engine.use(trained)
    said = engine.generate(requests)
    served.close()
    transformers = make_engine(_config().engine)
    for request, completions in zip(requests, said, strict=True):
        assert completions[0].token_ids == completions[3].token_ids  # the same seed, the same message
        for completion in completions:  # of the renormalised distribution: any token past the fifth would be at -inf
            wanted = _scored(transformers, trained.adapters["plans"], request.prompt_ids, completion.token_ids, 0.7, 5)
            assert completion.logprobs == pytest.approx(wanted, abs=2e-3)
    assert sum(len({completion.token_ids for completion in completions}) > 1 for completions in said) >= 3
    transformers.close()


def test_an_adapter_is_loaded_once_and_leaves_with_its_version(
    trained: PolicyVersion, untrained: PolicyVersion, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = resources.engine(_config(*IN_PROCESS), untrained)
    inside = engine._llm.llm_engine  # type: ignore[attr-defined]
    loads, add = [], inside.add_lora
    monkeypatch.setattr(inside, "add_lora", lambda request: (loads.append(request.lora_name), add(request))[1])
    assert set(inside.list_loras()) == set()
    engine.use(trained)
    there = set(inside.list_loras())
    engine.use(PolicyVersion("the same adapters", trained.base, trained.adapters))
    assert set(inside.list_loras()) == there and len(there) == 2
    assert sorted(loads) == sorted(adapter_name(adapter) for adapter in trained.adapters.values())
    engine.use(untrained)
    assert set(inside.list_loras()) == set()


def test_exchanged_adapters_in_process_stop_the_round_before_its_first_message(
    trained: PolicyVersion, resources: Resources, tmp_path: Path
) -> None:
    resources.engine(_config(*IN_PROCESS), trained)  # loads both: by their digests they are there
    plans, answers = trained.adapters["plans"], trained.adapters["answers"]
    adapters = {
        "plans": Adapter(plans.digest, answers.directory),
        "answers": Adapter(answers.digest, plans.directory),
    }
    exchanged = PolicyVersion("exchanged", trained.base, adapters)
    record_config(Layout(tmp_path), "test", 1, _config(*IN_PROCESS).model_dump(mode="json"))
    with pytest.raises(EngineError, match=r"engine vllm: .*nothing was sampled under policy exchanged"):
        _steps(resolver_of(tmp_path, "test", 1), resources, "rollout", exchanged)
    assert not list(tmp_path.glob("artifacts/rollout/*/part-*"))


def test_the_doctor_finds_the_server_well(trained: PolicyVersion, server: str) -> None:
    found = list(examine(_config(*_served(server)), trained))
    assert [checked.good for checked in found] == [True, True, True], found
    assert "mean gap" in found[-1].said


def test_the_doctor_names_a_server_of_another_model(server: str) -> None:
    [checked] = examine(_config(*_served(server), "engine.served_model=other"))
    assert not checked.good
    assert "not 'other'; name it in engine.served_model" in checked.said


def test_a_broken_adapter_is_refused_by_a_real_server_in_one_line(
    trained: PolicyVersion, server: str, tmp_path: Path
) -> None:
    broken = _broken_adapter(trained, tmp_path)
    engine = make_engine(_config(*_served(server)).engine)
    with pytest.raises(EngineError, match="refuses adapter") as caught:
        engine.use(PolicyVersion("broken", "base", {"plans": broken, "answers": broken}))
    assert "\n" not in str(caught.value)
    engine.close()


def test_an_adapter_of_too_high_a_rank_is_refused_in_process(
    trained: PolicyVersion, resources: Resources, tmp_path: Path
) -> None:
    engine = resources.engine(_config(*IN_PROCESS), trained)
    broken = _broken_adapter(trained, tmp_path)
    with pytest.raises(EngineError, match="its rank is 99"):
        engine.use(PolicyVersion("broken", "base", {"plans": broken, "answers": broken}))
    engine.use(trained)


def _broken_adapter(policy: PolicyVersion, folder: Path) -> Adapter:
    """A trained adapter whose configuration claims another rank."""
    whole = policy.adapters["plans"].directory
    assert whole is not None
    shutil.copytree(whole, folder / "adapter")
    settings = json.loads((whole / "adapter_config.json").read_text())
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({**settings, "r": 99}))
    return Adapter("broken" * 6, folder / "adapter")


def test_a_prompt_past_the_window_is_refused_by_both(
    untrained: PolicyVersion, resources: Resources, server: str
) -> None:
    long = Request(tuple([7] * WINDOW), (1,), SamplingParameters(1.0, 1.0, 0, 4), "plans")
    served = make_engine(_config(*_served(server)).engine)
    served.use(untrained)
    for engine in (resources.engine(_config(*IN_PROCESS), untrained), served):
        with pytest.raises(EngineError, match=f"a prompt of {WINDOW} tokens and 4 new ones are 516, past the"):
            engine.generate([long])
    served.close()


def test_a_server_holds_only_the_adapters_of_the_version_in_use(
    trained: PolicyVersion, untrained: PolicyVersion, server: str
) -> None:
    engine = make_engine(_config(*_served(server)).engine)
    engine.use(trained)
    wanted = {adapter_name(adapter) for adapter in trained.adapters.values()}
    assert wanted <= _offered(server)
    engine.use(untrained)
    assert not wanted & _offered(server)
    engine.close()


def test_exchanged_adapters_at_a_server_stop_the_round_before_its_first_message(
    trained: PolicyVersion, server: str, tmp_path: Path
) -> None:
    names = {role: adapter_name(adapter) for role, adapter in trained.adapters.items()}
    for role, other in (("plans", "answers"), ("answers", "plans")):
        _administer(server, "unload", {"lora_name": names[role]}, missing_ok=True)
        _administer(server, "load", {"lora_name": names[role], "lora_path": str(trained.adapters[other].directory)})
    record_config(Layout(tmp_path), "test", 1, _config(*_served(server)).model_dump(mode="json"))
    resolver, resources = resolver_of(tmp_path, "test", 1), Resources()
    with pytest.raises(EngineError, match=f"server {server}: .*nothing was sampled under policy trained"):
        _steps(resolver, resources, "rollout", trained)
    assert not list(tmp_path.glob("artifacts/rollout/*/part-*"))
    for name in names.values():
        _administer(server, "unload", {"lora_name": name})
    assert _steps(resolver, resources, "rollout", trained)["rollout"].rows("decisions")
    resources.close()


def _administer(server: str, action: str, body: dict[str, str], missing_ok: bool = False) -> None:
    request = urllib.request.Request(
        f"{server}/v1/{action}_lora_adapter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120):
            return
    except urllib.error.HTTPError as error:
        if not missing_ok or error.code != 404:
            raise


def _offered(server: str) -> set[str]:
    with urllib.request.urlopen(f"{server}/v1/models", timeout=30) as answer:
        return {entry["id"] for entry in json.load(answer)["data"]}


def test_vllm_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from tests.stages.engines.vllm.test_in_process import _config, IN_PROCESS\n"
        "from stages.engines.registry import make_engine\n"
        "if __name__ == '__main__':\n"
        "    engine = make_engine(_config(*IN_PROCESS).engine)\n"
        "    found = engine._llm.llm_engine.engine_core.resources.engine_manager.processes\n"
        f"    open({str(tmp_path / 'children')!r}, 'w').write(' '.join(str(p.pid) for p in found))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "killed.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(tmp_path / "killed.py")], env=environment, capture_output=True, timeout=900)
    children = [int(pid) for pid in (tmp_path / "children").read_text().split()]
    assert children
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}/exe").exists() and _runs(pid) for pid in children):
        time.sleep(0.2)
    assert not any(_runs(pid) for pid in children)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
