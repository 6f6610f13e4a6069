"""Full fine-tuning: every weight is trained, the engine samples from what was trained, and the base stays as it was."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import cli
from configs.engines import TransformersEngineConfig
from configs.errors import ConfigError, EngineError, UpdateError
from configs.load import build_config, load_config
from configs.training import PolicyConfig, UpdateConfig
from stages.engines.protocol import Request, SamplingParameters
from stages.engines.transformers.engine import TransformersEngine
from stages.learners.full.learner import FullLearner
from stages.learners.protocol import TrainRow
from stages.learners.registry import make_learner
from stages.models.adapter_files import FULL_FILE
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from tests.support.rounds import drive
from tests.support.tiny_models import END, FAMILIES, LETTERS, logprobs_alone, tiny_model, write_tiny_model
from tests.support.worlds import duo

UNTRAINED = initial_policy("base", ["team"])
ROWS = [
    TrainRow(f"d{index}", "team", context, tokens, 1.0)
    for index, (context, tokens) in enumerate([((1, 2, 3), (4, 5, END)), ((1, 2, 3), (6,)), ((7, 8), (9, 9, 9, 1))])
]


def _learner(family: str = "llama", layout: str = "packed") -> FullLearner:
    learner = FullLearner(tiny_model(family), ["team"], layout)  # type: ignore[arg-type]
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
    engine = TransformersEngine(tiny_model(), [END])
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
    learner = FullLearner(tiny_model(), ["one", "two"])
    learner.load(initial_policy("base", ["one", "two"]), seed=0)
    row = TrainRow("d", "one", (1, 2), (3, 4), 1.0)
    learner.score([row])[0].logprob_T.sum().backward()
    assert all(parameter.grad is not None for _, parameter in learner.named_parameters("one"))
    assert all(parameter.grad is None for _, parameter in learner.named_parameters("two"))


def test_in_bfloat16_products_are_rounded_and_weights_are_not() -> None:
    half = FullLearner(tiny_model(), ["team"], dtype="bfloat16")
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
        TransformersEngine(tiny_model(), [END]).use(version)


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


def test_two_rounds_train_every_weight_and_the_second_goes_on_from_the_first(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    roles = tuple(
        role.model_copy(update={"max_new_tokens": tokens}) for role, tokens in zip(duo().roles, (5, 1), strict=True)
    )
    config = duo(
        engine=TransformersEngineConfig(model=str(model), dtype="float32", device="cpu", threads=1),
        roles=roles,
        policies={"team": PolicyConfig(weights="full")},
        update=UpdateConfig(learning_rate=1e-3, minibatches=2, checkpoint_steps=1),
        words=tuple(LETTERS[:26]),
    )
    first, second = (drive(tmp_path / "store", config, round=number) for number in (1, 2))
    assert len(second.artifacts["update"].parts()) == 2
    weights = [
        load_file(round.artifacts["update"].parts()[-1] / "weights/team" / FULL_FILE) for round in (first, second)
    ]
    for earlier, later in pairwise([dict(tiny_model().named_parameters()), *weights]):
        assert earlier.keys() == later.keys()
        assert all(not torch.equal(earlier[name], later[name]) for name in earlier)
    # sampled from the first round's weights: every log-prob is theirs, and not the untrained model's
    trained = tiny_model()
    trained.load_state_dict(weights[0], strict=False)
    contexts = second.by_id("contexts", "state_id")
    far = 0.0
    for row in second.rows("decisions", "sample"):
        assert row["policy_version"] == first.resolver.policy_after.version == second.resolver.policy_before.version
        said = (tuple(contexts[row["state_id"]]["token_ids"]), tuple(row["token_ids"]), 1.0)
        assert row["behaviour_logprobs"] == pytest.approx(logprobs_alone(trained, *said).tolist(), abs=5e-5)
        far = max(
            far, float((logprobs_alone(tiny_model(), *said) - torch.tensor(row["behaviour_logprobs"])).abs().max())
        )
    assert far > 1e-3
    # two steps a round, and the optimiser's memory of all four
    states = [
        load_file(round.artifacts["update"].parts()[-1] / "optimizer/team.safetensors") for round in (first, second)
    ]
    assert [{int(state[f"{name}:step"]) for name in weights[0]} for state in states] == [{2}, {4}]
    asked = f"export policy {tmp_path / 'out'} --merge --round 2 --run test --store {tmp_path / 'store'}"
    cli.app(asked.split(), standalone_mode=False)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, weights[1][name]), name
