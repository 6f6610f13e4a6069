"""The same claims on a GPU as on a CPU: layouts agree, engine agrees with trainer, what is made again is the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stages.update
from configs.engines import TransformersEngineConfig
from configs.environment import cache_root
from configs.schema import Config
from configs.training import KlConfig, PolicyConfig, UpdateConfig
from stages.base.resources import Resources
from stages.engines.protocol import Request, SamplingParameters
from stages.engines.transformers.engine import TransformersEngine, load_engine
from stages.learners.lora.learner import LoraLearner
from stages.learners.protocol import TrainRow
from stages.models.embedded import embedded_model
from stages.models.protocol import ChatMessage
from store.artifacts.artifact import StageOutput
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from tests.conftest import ROOT
from tests.stages.learners.scoring.test_layouts import AWKWARD
from tests.support.rounds import PlayedRound, drive, resolver_of
from tests.support.tiny_models import END, FAMILIES, LETTERS, TARGETS, logprobs_alone, tiny_model, write_tiny_model
from tests.support.worlds import duo

DEVICE = "cuda"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
]

UNTRAINED = initial_policy("base", ["team"])
ROWS = [TrainRow(f"d{i}", "team", context, tokens, 1.0) for i, (context, tokens) in enumerate(AWKWARD)]
WHOLE = SamplingParameters(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12)
GREEDY = SamplingParameters(temperature=0.0, top_p=1.0, top_k=0, max_new_tokens=12)
PROMPTS = [(5, 6, 7), (5, 6, 7, 8, 9, 10, 11, 12), (5, 6, 1), (5, 6, 7, 8), (3,) * 20]


def _learner(family: str, layout: str, device: str, dtype: torch.dtype = torch.float32) -> LoraLearner:
    """Its adapter's B is away from zero, else A would have no gradient and the adapter no effect."""
    policy = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS[family])
    learner = LoraLearner(tiny_model(family).to(device, dtype), {"team": policy}, layout)  # type: ignore[arg-type]
    learner.load(UNTRAINED, seed=1)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(learner.named_parameters("team")):
            if ".lora_B." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return learner


def _found(family: str, layout: str, device: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Log-probs of all rows and the gradient of each of the adapter's matrices, on the CPU."""
    learner = _learner(family, layout, device, dtype)
    logprob_N = torch.cat(learner.logprobs(ROWS))
    weight_N = torch.randn(len(logprob_N), generator=torch.Generator().manual_seed(7)).to(device)
    (weight_N * logprob_N).sum().backward()
    gradients = [parameter.grad for _, parameter in learner.named_parameters("team")]
    assert {gradient.device.type for gradient in gradients if gradient is not None} == {device}
    return [logprob_N.detach().cpu(), *(gradient.cpu() for gradient in gradients if gradient is not None)]


def _largest(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The largest relative difference of a tensor."""
    assert len(got) == len(wanted)
    return max(float((one - other).norm() / other.norm()) for one, other in zip(got, wanted, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_has_the_logprobs_and_gradients_of_one_sequence_at_a_time(family: str) -> None:
    single = _found(family, "single", DEVICE)
    for layout in ("packed", "padded"):
        apart = _largest(_found(family, layout, DEVICE), single)
        print(f"{family}, {layout} from single: {apart:.1e}")
        assert apart <= 1e-5
    from_cpu = _largest(single, _found(family, "single", "cpu"))
    print(f"{family}, single from the CPU's: {from_cpu:.1e}")
    assert from_cpu <= 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_packing_in_bfloat16_is_as_near_the_truth_as_one_sequence_at_a_time(family: str) -> None:
    truth = torch.cat([tensor.flatten() for tensor in _found(family, "single", "cpu")])
    packed, alone = (
        torch.cat([tensor.flatten() for tensor in _found(family, layout, DEVICE, torch.bfloat16)])
        for layout in ("packed", "single")
    )
    rounding = float((alone - truth).norm())
    print(f"{family}: packed {float((packed - truth).norm()) / rounding:.2f} times the rounding of single")
    assert 0 < rounding < 0.1 * float(truth.norm())
    assert float((packed - truth).norm()) <= 1.5 * rounding


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_and_learner_agree_on_logprobs_and_with_the_cpu(family: str, tmp_path: Path) -> None:
    trained = PolicyVersion(
        "v1", "base", {"team": Adapter("d", _learner(family, "packed", "cpu").save(tmp_path)["team"])}
    )
    engine = TransformersEngine(tiny_model(family).to(DEVICE), [END])
    engine.use(trained)
    requests = [Request(prompt, tuple(range(4)), WHOLE, "team") for prompt in PROMPTS]
    answers = engine.generate(requests)
    assert engine.generate(requests) == answers  # the same bytes
    said = [(prompt, one) for prompt, completions in zip(PROMPTS, answers, strict=True) for one in completions]
    rows = [TrainRow(str(i), "team", prompt, one.token_ids, 1.0) for i, (prompt, one) in enumerate(said)]
    learner, on_cpu = (_learner(family, "packed", device) for device in (DEVICE, "cpu"))
    for device, other in ((DEVICE, learner), ("cpu", on_cpu)):
        other.load(trained, seed=0)
        gap = max(
            abs(theirs - ours)
            for (_, one), logprob_T in zip(said, other.logprobs(rows), strict=True)
            for theirs, ours in zip(one.logprobs, logprob_T.tolist(), strict=True)
        )
        print(f"{family}: engine from the trainer on {device}: {gap:.1e}")
        assert gap <= 5e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_message_does_not_depend_on_its_neighbours(family: str) -> None:
    def said(requests: list[Request], max_batch_tokens: int = 4096) -> list[list[tuple[int, ...]]]:
        engine = TransformersEngine(tiny_model(family).to(DEVICE), [END], max_batch_tokens=max_batch_tokens)
        engine.use(UNTRAINED)
        return [[one.token_ids for one in completions] for completions in engine.generate(requests)]

    for sampling in (GREEDY, WHOLE):
        requests = [Request(prompt, (10 * i, 10 * i + 1), sampling, "team") for i, prompt in enumerate(PROMPTS)]
        together = said(requests)
        assert said(requests, max_batch_tokens=60) == together
        assert [said([request])[0] for request in requests] == together


def test_the_embedded_model_says_alone_what_it_says_among_others_and_as_on_a_cpu() -> None:
    smollm2 = embedded_model(cache_root())
    engine = load_engine(TransformersEngineConfig(dtype="float32", device=DEVICE), smollm2)
    engine.use(UNTRAINED)
    questions = [f"What is {a} + {b}? Then name a colour and an animal." for a in range(4) for b in range(3)]
    prompts = [tuple(engine.codec.encode([ChatMessage("user", question)])) for question in questions]
    requests = [Request(prompt, (0,), GREEDY, "team") for prompt in prompts]
    together = engine.generate(requests)
    assert [engine.generate([request])[0][0].token_ids for request in requests] == [
        one[0].token_ids for one in together
    ]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    for prompt, (completion,) in list(zip(prompts, together, strict=True))[:3]:
        wanted_T = logprobs_alone(model, prompt, completion.token_ids, 1.0)
        assert completion.logprobs == pytest.approx(wanted_T.tolist(), abs=1e-3)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A team of a tiny model, whose words are letters, with an update of two parts."""
    model = write_tiny_model(tmp_path_factory.mktemp("model"))
    policy = PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"])
    roles = tuple(
        role.model_copy(update={"policy": role.name, "max_new_tokens": tokens})
        for role, tokens in zip(duo().roles, (5, 1), strict=True)
    )
    return duo(
        engine=TransformersEngineConfig(model=str(model), dtype="float32", device=DEVICE, threads=1),
        roles=roles,
        policies={role.name: policy for role in roles},
        words=tuple(LETTERS[:26]),
        update=UpdateConfig(epochs=2, minibatches=2, checkpoint_steps=2, kl=KlConfig(coefficient=0.1)),
    )


def _digests(ran: PlayedRound) -> dict[str, str]:
    return {name: adapter.digest for name, adapter in ran.resolver.policy_after.adapters.items()}


def test_a_round_made_again_is_the_same_bytes_also_after_a_kill_between_two_parts_of_its_update(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = (drive(tmp_path / name, config) for name in ("whole", "again"))
    assert len(whole.artifacts["update"].parts()) == 2
    digests = {name: artifact.digest for name, artifact in whole.artifacts.items()}
    assert {name: artifact.digest for name, artifact in again.artifacts.items()} == digests
    trained = stages.update.trained

    def killed(part: Any, *rest: Any) -> StageOutput:
        if part.index == 1:
            raise KeyboardInterrupt
        return trained(part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(stages.update, "trained", killed)
        with pytest.raises(KeyboardInterrupt):
            drive(tmp_path / "killed", config)
    resumed = drive(tmp_path / "killed", config, resources=Resources())
    assert resumed.made == ["update"]
    assert {name: artifact.digest for name, artifact in resumed.artifacts.items()} == digests
    assert _digests(resumed) == _digests(whole) == _digests(again)
    assert _digests(whole) != {name: adapter.digest for name, adapter in whole.resolver.policy_before.adapters.items()}


def test_the_layout_of_the_update_does_not_matter(config: Config, tmp_path: Path) -> None:
    steps = {}
    for layout in ("packed", "padded", "single"):
        update = config.update.model_copy(update={"layout": layout})
        steps[layout] = drive(tmp_path, config.model_copy(update={"update": update}), run=layout).rows("steps")
    for layout in ("padded", "single"):
        for row, other in zip(steps["packed"], steps[layout], strict=True):
            for name in ("loss", "gradient_norm", "kl", "entropy"):
                assert other[name] == pytest.approx(row[name], rel=1e-3, abs=1e-5)


def test_a_command_makes_a_round_of_the_embedded_model_on_a_gpu(tmp_path: Path) -> None:
    small = ("rounds.problems_per_round=4", "parts.problems_per_part=4", f"engine.device={DEVICE}")
    command = [sys.executable, "cli.py", "run", "iteration", "--round", "1", "--run", "gpu", "--store", str(tmp_path)]
    command += ["--config", "arithmetic-duo", *(word for override in small for word in ("--set", override))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    resolver = resolver_of(tmp_path, "gpu", 1)
    assert resolver.policy_after.version != resolver.policy_before.version
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 0, again.stdout + again.stderr
