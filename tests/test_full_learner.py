"""Full fine-tuning: every weight is trained, the engine samples from what was trained, and the base stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import END, FAMILIES, logprobs_alone, tiny_model

from configs.errors import ConfigError, EngineError, UpdateError
from configs.load import build_config, load_config
from stages.engines.protocol import Request, SamplingParameters
from stages.engines.transformers import TransformersEngine
from stages.learners.full import FullLearner
from stages.learners.make import make_learner
from stages.learners.protocol import TrainRow
from store.policies import Adapter, PolicyVersion, initial_policy
from tests.worlds import duo

UNTRAINED = initial_policy("base", ["team"])
ROWS = [
    TrainRow(f"d{index}", "team", context, tokens, 1.0)
    for index, (context, tokens) in enumerate([((1, 2, 3), (4, 5, END)), ((1, 2, 3), (6,)), ((7, 8), (9, 9, 9, 1))])
]


def _learner(family: str = "llama", layout: str = "packed") -> FullLearner:
    learner = FullLearner.of_model(tiny_model(family), ["team"], layout)  # type: ignore[arg-type]
    learner.load(UNTRAINED, seed=0)
    return learner


def _trained(learner: FullLearner, steps: int = 3) -> FullLearner:
    optimizer = torch.optim.SGD([parameter for _, parameter in learner.named_parameters("team")], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (-torch.cat([scored.logprob_T for scored in learner.score(ROWS)]).mean()).backward()
        optimizer.step()
    return learner


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_has_the_gradient_of_one_sequence_at_a_time(family: str, layout: str) -> None:
    found = []
    for kind in ("single", layout):
        learner = _learner(family, kind)
        torch.cat([scored.logprob_T for scored in learner.score(ROWS)]).sum().backward()
        found.append({name: parameter.grad for name, parameter in learner.named_parameters("team")})
    wanted, got = found
    assert set(wanted) == {name for name, _ in tiny_model(family).named_parameters()}
    for name, gradient in wanted.items():
        assert gradient is not None and got[name] is not None
        assert (got[name] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-6, name


def test_the_engine_samples_from_what_was_trained(tmp_path: Path) -> None:
    learner = _trained(_learner())
    version = PolicyVersion("v1", "base", {"team": Adapter("d", learner.save(tmp_path)["team"])})
    engine = TransformersEngine.of_model(tiny_model(), [END])
    sampling = SamplingParameters(1.0, 1.0, 0, 8)
    asked = [Request((1, 2, 3), tuple(range(4)), sampling, "team")]
    engine.use(UNTRAINED)
    before = engine.generate(asked)
    engine.use(version)
    [completions] = engine.generate(asked)
    assert [completions] != before
    rows = [TrainRow(str(i), "team", (1, 2, 3), c.token_ids, 1.0) for i, c in enumerate(completions)]
    for completion, scored in zip(completions, learner.score(rows), strict=True):
        assert completion.logprobs == pytest.approx(scored.logprob_T.tolist(), abs=5e-5)
    engine.use(UNTRAINED)
    assert engine.generate(asked) == before


def test_the_reference_stays_as_it_was_and_the_weights_go_on_from_where_they_were(tmp_path: Path) -> None:
    learner = _trained(_learner())
    moved = learner.score(ROWS)[0].logprob_T
    for row, logprob_T in zip(ROWS, learner.reference_logprobs(ROWS), strict=True):
        wanted_T = logprobs_alone(tiny_model(), row.context_ids, row.token_ids, 1.0)
        torch.testing.assert_close(logprob_T, wanted_T, rtol=1e-5, atol=1e-5)
    again = _learner()
    again.load(PolicyVersion("v1", "base", {"team": Adapter("d", learner.save(tmp_path)["team"])}), seed=0)
    assert torch.equal(again.score(ROWS)[0].logprob_T, moved)
    again.load(UNTRAINED, seed=0)
    assert not torch.allclose(again.score(ROWS)[0].logprob_T, moved, atol=1e-3)


def test_two_policies_are_two_models() -> None:
    learner = FullLearner.of_model(tiny_model(), ["one", "two"])
    learner.load(initial_policy("base", ["one", "two"]), seed=0)
    row = TrainRow("d", "one", (1, 2), (3, 4), 1.0)
    learner.score([row])[0].logprob_T.sum().backward()
    assert all(parameter.grad is not None for _, parameter in learner.named_parameters("one"))
    assert all(parameter.grad is None for _, parameter in learner.named_parameters("two"))


def test_in_bfloat16_products_are_rounded_and_weights_are_not() -> None:
    half = FullLearner.of_model(tiny_model(), ["team"], dtype="bfloat16")
    half.load(UNTRAINED, seed=0)
    rounded, exact = (torch.cat([s.logprob_T for s in learner.score(ROWS)]).detach() for learner in (half, _learner()))
    assert 0 < (rounded - exact).abs().mean() < 0.1
    assert {parameter.dtype for _, parameter in _trained(half).named_parameters("team")} == {torch.float32}


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    saved = Adapter("d", _learner("gpt_neox").save(tmp_path)["team"])
    version = PolicyVersion("v1", "base", {"team": saved})
    with pytest.raises(UpdateError, match="are of another model, or of an adapter"):
        _learner().load(version, seed=0)
    with pytest.raises(EngineError, match="they are of another model"):
        TransformersEngine.of_model(tiny_model(), [END]).use(version)


def test_the_configuration_chooses_it(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    engine = f"engine={{kind='transformers', model='{tmp_path}', dtype='float32'}}"
    learner = make_learner(load_config("arithmetic-duo", [engine, "policies={team={weights='full'}}"]))
    assert isinstance(learner, FullLearner)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["policies.team.weights=full"], 'weights = "full" needs the transformers engine; scripted samples'),
        (
            [
                "engine={kind='transformers'}",
                "policies={a={weights='full'},b={}}",
                "roles.reasoner.policy=a",
                "roles.actor.policy=b",
            ],
            "weights is full for some and lora for others",
        ),
    ],
)
def test_what_cannot_be_trained_in_full_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_config(duo().model_dump(mode="json"), overrides)
