"""Whether the weights that train are those that sampled: told by versions, and by log-probs on a real (tiny) model."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import UpdateError
from configs.schema import Config, SamplingConfig
from configs.training import PolicyConfig, UpdateConfig
from pipeline.steps import step_named
from stages.engines.protocol import Request, SamplingParameters
from stages.engines.transformers.engine import TransformersEngine
from stages.learners.lora.learner import LoraLearner
from stages.learners.protocol import TrainRow
from stages.mismatch.logprob_mismatch import check_mismatch, logprob_mismatch, reject_off_policy_rows
from stages.training.examples import TrainingExample
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from tests.support.rounds import drive
from tests.support.tiny_models import END, TARGETS, tiny_model
from tests.support.worlds import duo

POLICY = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS["llama"])
VERSION = "v1"
PROMPTS = [(5, 6, 7), (5, 6, 7, 8, 9, 10), (1, 2), (3, 4, 5, 6)]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters, and the first with one weight changed."""
    found = {}
    for seed, name in enumerate(("right", "wrong"), start=1):
        learner = LoraLearner(tiny_model(), {"team": POLICY})
        learner.load(initial_policy("base", ["team"]), seed)
        with torch.no_grad():
            for index, (_, parameter) in enumerate(learner.named_parameters("team")):
                generator = torch.Generator().manual_seed(100 * seed + index)
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        found[name] = learner.save(tmp_path_factory.mktemp(name))["team"]
    found["changed"] = tmp_path_factory.mktemp("changed") / "team"
    shutil.copytree(found["right"], found["changed"])
    file = found["changed"] / "adapter_model.safetensors"
    tensors = load_file(file)
    name = min(name for name in tensors if ".lora_B." in name)
    tensors[name][0, 0] += 1.0
    save_file(tensors, file)
    return found


def _version(adapter: Path) -> PolicyVersion:
    return PolicyVersion(VERSION, "base", {"team": Adapter(adapter.parent.name, adapter)})


def _sampled(adapter: Path, top_p: float = 1.0, top_k: int = 0) -> list[TrainingExample]:
    """What the engine says with an adapter, as lessons of two roles."""
    engine = TransformersEngine(tiny_model(), [END])
    engine.use(_version(adapter))
    sampling = SamplingParameters(1.0, top_p, top_k, 12)
    answers = engine.generate([Request(prompt, tuple(range(6)), sampling, "team") for prompt in PROMPTS])
    return [
        TrainingExample(
            TrainRow(f"{place}.{draw}", "team", prompt, completion.token_ids, 1.0),
            ("reasoner", "actor")[place % 2],
            "problem",
            1.0,
            VERSION,
            completion.logprobs,
            None,
        )
        for place, (prompt, completions) in enumerate(zip(PROMPTS, answers, strict=True))
        for draw, completion in enumerate(completions)
    ]


def _recomputed(adapter: Path, examples: Sequence[TrainingExample]) -> dict[str, list[float]]:
    learner = LoraLearner(tiny_model(), {"team": POLICY})
    learner.load(_version(adapter), seed=0)
    rows = [example.row for example in examples]
    return {row.decision_id: logprob_T.tolist() for row, logprob_T in zip(rows, learner.logprobs(rows), strict=True)}


def _config(**sampling: float) -> Config:
    return duo(sampling=SamplingConfig(**sampling))  # type: ignore[arg-type]


def test_the_same_weights_pass_with_hardly_a_gap(adapters: dict[str, Path]) -> None:
    examples = _sampled(adapters["right"])
    trainer = _recomputed(adapters["right"], examples)
    check_mismatch(_config(), VERSION, "float32", examples, trainer)
    rows = logprob_mismatch(examples, trainer)
    assert [(row["role"], row["rows"], row["unmeasured"]) for row in rows] == [("reasoner", 12, 0), ("actor", 12, 0)]
    for row in rows:
        assert row["mean_mismatch"] <= row["p99_mismatch"] <= row["largest_mismatch"] < 5e-5
        assert row["effective_sample_share"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("loaded", ["wrong", "changed"])
def test_another_adapter_or_one_changed_weight_stops_the_update(adapters: dict[str, Path], loaded: str) -> None:
    examples = _sampled(adapters["right"])
    with pytest.raises(
        UpdateError, match=r"past update.max_logprob_mismatch = 0.002; .* Likely: the rows were sampled with another"
    ):
        check_mismatch(_config(), VERSION, "float32", examples, _recomputed(adapters[loaded], examples))


@pytest.mark.parametrize("truncation", [{"top_p": 0.7}, {"top_k": 5}])
def test_truncation_stops_the_update_unless_it_is_stated(
    adapters: dict[str, Path], truncation: dict[str, float]
) -> None:
    examples = _sampled(adapters["right"], **truncation)  # type: ignore[arg-type]
    trainer = _recomputed(adapters["right"], examples)
    with pytest.raises(UpdateError, match="Likely: the engine truncated its sampling"):
        check_mismatch(_config(), VERSION, "float32", examples, trainer)
    check_mismatch(_config(**truncation), VERSION, "float32", examples, trainer)
    assert all(
        row["signed_mismatch"] == pytest.approx(row["mean_mismatch"], abs=1e-4)
        for row in logprob_mismatch(examples, trainer)
    )


def test_stated_truncation_does_not_excuse_a_wrong_adapter(adapters: dict[str, Path]) -> None:
    examples = _sampled(adapters["right"], top_p=0.9)
    with pytest.raises(UpdateError, match="max_logprob_mismatch"):
        check_mismatch(_config(top_p=0.9), VERSION, "float32", examples, _recomputed(adapters["wrong"], examples))


def _lesson(name: str, behaviour: tuple[float, ...] | None, version: str = VERSION) -> TrainingExample:
    return TrainingExample(TrainRow(name, "team", (1,), (2, 3), 1.0), "actor", "p", 1.0, version, behaviour, None)


def test_the_gap_by_hand() -> None:
    # engine - trainer: .1, -.3 | 0, .5: mean of sizes .9 / 4, mean .3 / 4, largest .5
    # message weights exp(.2), exp(-.5): (sum)^2 / (2 sum of squares)
    examples = [_lesson("a", (-1.0, -1.3)), _lesson("b", (-2.0, -1.0)), _lesson("c", None)]
    [row] = logprob_mismatch(examples, {"a": [-1.1, -1.0], "b": [-2.0, -1.5], "c": [-1.0, -1.0]})
    assert (row["rows"], row["unmeasured"], row["tokens"]) == (2, 1, 4)
    assert row["mean_mismatch"] == pytest.approx(0.225)
    assert row["signed_mismatch"] == pytest.approx(0.075)
    assert row["largest_mismatch"] == pytest.approx(0.5)
    assert row["p99_mismatch"] == pytest.approx(0.3 + 0.97 * 0.2)  # place 2.97 of 0 .1 .3 .5
    share = (exp(0.2) + exp(-0.5)) ** 2 / (2 * (exp(0.4) + exp(-1.0)))
    assert row["effective_sample_share"] == pytest.approx(share)


def test_rows_without_log_probs_have_no_gap() -> None:
    [row] = logprob_mismatch([_lesson("a", None)], {})
    assert (row["rows"], row["unmeasured"], row["tokens"], row["mean_mismatch"]) == (0, 1, 0, None)
    check_mismatch(_config(), VERSION, "float32", [_lesson("a", None)], {})


def test_rows_of_an_earlier_policy_are_told_apart_and_not_held_to_the_bound() -> None:
    examples = [_lesson("a", (-1.0, -1.0)), _lesson("b", (-1.0, -1.0), "v0")]
    trainer = {"a": [-1.0, -1.0], "b": [-2.0, -2.0]}
    assert [(row["policy_version"], row["mean_mismatch"]) for row in logprob_mismatch(examples, trainer)] == [
        (VERSION, 0.0),
        ("v0", 1.0),
    ]
    check_mismatch(_config(), VERSION, "float32", examples, trainer)


@pytest.mark.parametrize(("bound", "passes"), [(0.09, False), (0.11, True), ("auto", True)])
def test_the_bound_is_configured_and_wider_in_bfloat16(bound: float | str, passes: bool) -> None:
    config = duo(update=UpdateConfig(max_logprob_mismatch=bound))  # type: ignore[arg-type]
    examples, trainer = [_lesson("a", (-1.0, -1.0))], {"a": [-1.1, -0.9]}
    if passes:
        check_mismatch(config, VERSION, "bfloat16", examples, trainer)
    else:
        with pytest.raises(
            UpdateError, match=r"differ by 0.1 a token on average, past update.max_logprob_mismatch = 0.09"
        ):
            check_mismatch(config, VERSION, "bfloat16", examples, trainer)


def test_rows_of_another_version_are_refused_up_to_the_lag_that_is_configured(store: Path) -> None:
    for lag, earlier, refused in (
        (0, ("old",), True),
        (1, ("old",), False),
        (1, ("newer", "old"), True),
        (2, (), True),
    ):
        config = duo(update=UpdateConfig(max_version_lag=lag))
        ran = drive(store, config, until="advantages")
        job = ran.resolver.resolve(step_named("update"), ran.artifacts).job
        assert job.policy is not None
        job = replace(job, policy=replace(job.policy, earlier=earlier))
        for row in job.rows("advantages"):
            row["policy_version"] = "old"
        if refused:
            with pytest.raises(UpdateError, match="rows were sampled by policy old"):
                reject_off_policy_rows(job)
        else:
            reject_off_policy_rows(job)


def test_a_policy_knows_the_versions_before_it_as_far_as_the_lag_reaches(store: Path) -> None:
    config = duo(update=UpdateConfig(max_version_lag=2))
    rounds = [drive(store, config, round=number) for number in (1, 2, 3, 4)]
    versions = [round.resolver.policy_before.version for round in rounds]
    assert len(set(versions)) == 4
    assert [round.resolver.policy_before.earlier for round in rounds] == [
        (),
        (versions[0],),
        (versions[1], versions[0]),
        (versions[2], versions[1]),
    ]
