"""The update as a whole: what its steps measure, who is trained at which rate, and that nothing but rounding depends on
how rows are cut into micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

from configs.engines import ScriptedEngineConfig
from configs.errors import UpdateError
from configs.load import load_config
from configs.schema import Config
from configs.training import KlConfig, PolicyConfig, ScheduleConfig, UpdateConfig
from pipeline.steps import step_named
from stages.base.job import Job
from stages.base.resources import Resources
from stages.learners.lora.learner import LoraLearner
from stages.learners.protocol import TrainRow
from stages.learners.registry import keeps_model, learner_settings, make_learner
from stages.models.scripted_world import Vector, load_table
from stages.training.examples import Minibatch, TrainingExample, build_examples, make_minibatches
from stages.training.trainer import Trainer
from store.artifacts.artifact import Row, read_part
from store.artifacts.policy_version import initial_policy
from tests.conftest import ROOT
from tests.support.rounds import drive
from tests.support.tiny_models import TARGETS, tiny_model
from tests.support.worlds import duo, four_turns

POLICY = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS["llama"])


def _lessons(count: int = 12) -> list[TrainingExample]:
    """Siblings of four contexts and two roles, with advantages that cancel, some of them 0."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        context = (1, 2, 3, 4 + index % 4, 9)
        tokens = tuple(torch.randint(0, 40, (2 + index % 5,), generator=draw).tolist())
        row = TrainRow(f"d{index}", "team", context, tokens, 1.0)
        role = ("reasoner", "actor")[index % 2]
        found.append(
            TrainingExample(row, role, f"p{index % 4}", (0.5, -0.5, 0.0)[index % 3], "v", (-1.0,) * len(tokens), None)
        )
    return found


def _trainer(update: UpdateConfig, layout: str = "packed") -> Trainer:
    learner = LoraLearner(tiny_model(), {"team": POLICY}, layout)  # type: ignore[arg-type]
    learner.load(initial_policy("base", ["team"]), seed=1)
    config = duo(update=update, policies={"team": POLICY})
    return Trainer(config, 1, learner, None)


def _train(update: UpdateConfig, layout: str = "packed", steps: int = 3) -> tuple[list[Row], dict[str, torch.Tensor]]:
    """All lessons in every step: the figures, and the weights they led to."""
    trainer, examples = _trainer(update, layout), _lessons()
    plans = [Minibatch(number, number, tuple(examples)) for number in range(1, steps + 1)]
    trainer.measure(plans[:1], examples, ["team"])
    rows = [row for plan in plans for row in trainer.step(plan, steps)]
    return rows, {name: parameter.detach().clone() for name, parameter in trainer.learner.named_parameters("team")}


def _assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("max_tokens", "layout"), [(16, "packed"), (1024, "padded"), (1024, "single")])
def test_how_rows_share_a_pass_changes_nothing_but_rounding(max_tokens: int, layout: str) -> None:
    update = UpdateConfig(kl=KlConfig(coefficient=0.1), entropy_coefficient=0.01)
    rows, weights = _train(update)
    other_rows, others = _train(update.model_copy(update={"max_tokens": max_tokens}), layout)
    _assert_near(weights, others)
    for row, other in zip(rows, other_rows, strict=True):
        assert {name: row[name] for name in ("step", "role", "rows", "tokens")} == {
            name: other[name] for name in ("step", "role", "rows", "tokens")
        }
        for name in ("loss", "ratio_mean", "kl", "entropy", "gradient_norm"):
            assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_the_first_step_has_a_ratio_of_exactly_1_and_later_ones_do_not() -> None:
    rows, _ = _train(UpdateConfig(learning_rate=1e-2))
    assert {row["ratio_mean"] for row in rows if row["step"] == 1} == {1.0}
    assert {row["clipped_share"] for row in rows if row["step"] == 1} == {0.0}
    assert all(row["ratio_mean"] != 1.0 for row in rows if row["step"] > 1)


def test_the_kl_starts_at_0_and_grows_as_the_policy_leaves_the_reference() -> None:
    rows, _ = _train(UpdateConfig(learning_rate=1e-2))
    for role in ("reasoner", "actor"):
        first, second, third = (row["kl"] for row in rows if row["role"] == role)
        assert first == 0.0
        assert 0.0 < second < third


def test_a_kl_in_the_loss_keeps_the_policy_nearer() -> None:
    free, held = (
        _train(UpdateConfig(learning_rate=1e-2, clip=10.0, kl=KlConfig(coefficient=weight)), steps=8)[0][-1]["kl"]
        for weight in (0.0, 3.0)
    )
    assert held < 0.5 * free


def test_an_entropy_bonus_keeps_it_more_open() -> None:
    sharp, open_ = (
        _train(UpdateConfig(learning_rate=1e-2, clip=10.0, entropy_coefficient=weight), steps=8)[0][-1]["entropy"]
        for weight in (0.0, 1.0)
    )
    assert open_ > sharp


def test_rows_of_advantage_0_are_computed_only_where_the_loss_has_more_than_advantages() -> None:
    computed = [
        sum(row["rows"] for row in _train(update, steps=1)[0])
        for update in (
            UpdateConfig(),
            UpdateConfig(kl=KlConfig(coefficient=0.1)),
            UpdateConfig(entropy_coefficient=0.1),
        )
    ]
    assert computed == [8, 12, 12]


def test_every_row_is_measured_and_those_that_move_against_the_reference_too() -> None:
    trainer, examples = _trainer(UpdateConfig()), _lessons()
    trainer.measure([Minibatch(1, 1, tuple(examples))], examples, ["team"])
    assert set(trainer.old_logprobs) == {example.row.decision_id for example in examples}
    assert set(trainer.reference_logprobs) == {example.row.decision_id for example in examples if example.advantage}


def test_an_untrained_policy_is_its_own_reference() -> None:
    examples = _lessons()
    taken, computed = _trainer(UpdateConfig()), _trainer(UpdateConfig())
    taken.measure([Minibatch(1, 1, tuple(examples))], examples, ["team"])
    computed.measure([Minibatch(1, 1, tuple(examples))], examples)
    for decision, values in taken.reference_logprobs.items():
        assert values == pytest.approx(computed.reference_logprobs[decision], abs=1e-6)


def test_reinforce_and_the_clipped_gradient_take_the_same_first_step() -> None:
    (_, clipped), (_, plain) = (
        _train(UpdateConfig(loss=loss), steps=1) for loss in ("clipped_policy_gradient", "reinforce")
    )
    _assert_near(clipped, plain)


def test_a_loss_that_is_not_finite_names_its_rows() -> None:
    trainer, examples = _trainer(UpdateConfig()), _lessons()
    trainer.measure([Minibatch(1, 1, tuple(examples))], examples, ["team"])
    trainer.old_logprobs["d4"] = [-float("inf")] * len(trainer.old_logprobs["d4"])
    with pytest.raises(UpdateError, match=r"not finite for 1 rows \(d4\); no policy version was written"):
        trainer.step(Minibatch(1, 1, tuple(examples)), 1)


def _adamw(parameter: torch.Tensor, gradients: Sequence[torch.Tensor], rate: float, decay: float = 0.0) -> torch.Tensor:
    """Where AdamW's formulas (arXiv 1711.05101, algorithm 2) lead, written out in float64."""
    (first, second), at = UpdateConfig().betas, parameter.double()
    mean, square = torch.zeros_like(at), torch.zeros_like(at)
    for step, gradient in enumerate(gradients, start=1):
        mean = first * mean + (1 - first) * gradient.double()
        square = second * square + (1 - second) * gradient.double() ** 2
        towards = (mean / (1 - first**step)) / ((square / (1 - second**step)).sqrt() + 1e-8)
        at = at - rate * decay * at - rate * towards
    return at


def _descended(update: UpdateConfig, norms: Sequence[float]) -> tuple[list[float], list[list[torch.Tensor]]]:
    """One step for each gradient of these norms: norms as told, and of every parameter where it began, its gradients
    and where it ended."""
    optimizers = (trainer := _trainer(update)).optimizers
    parameters = [parameter for _, parameter in trainer.learner.named_parameters("team")]
    draw = torch.Generator().manual_seed(3)
    seen = [[parameter.detach().clone()] for parameter in parameters]
    told = []
    for norm in norms:
        gradients = [torch.randn(parameter.shape, generator=draw) for parameter in parameters]
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for parameter, gradient, of in zip(parameters, gradients, seen, strict=True):
            of.append(gradient * norm / length)
            parameter.grad = of[-1].clone()
        told.append(optimizers.descend(1.0)["team"][0])
    return told, [[*of, parameter.detach()] for of, parameter in zip(seen, parameters, strict=True)]


def test_a_step_is_by_the_clipped_gradient_and_tells_the_norm_before() -> None:
    # Adam forgets the scale of all gradients, so one step alone would not tell; it does not forget which of two was larger
    rate = 1e-2
    told, moved = _descended(UpdateConfig(learning_rate=rate, max_grad_norm=2.0), [40.0, 1.0, 10.0])
    assert told == pytest.approx([40.0, 1.0, 10.0], rel=1e-5)
    for start, large, small, middle, end in moved:
        clipped = _adamw(start, [large / 20, small, middle / 5], rate)
        torch.testing.assert_close(end.double(), clipped, rtol=1e-4, atol=1e-6)
        assert (clipped - _adamw(start, [large, small, middle], rate)).abs().max() > 0.1 * rate


def test_the_norm_in_the_steps_is_that_before_clipping() -> None:
    (free, weights), (held, clipped) = (
        _train(UpdateConfig(learning_rate=1e-2, max_grad_norm=norm)) for norm in (1e6, 1e-3)
    )
    first = [row["gradient_norm"] for row in free if row["step"] == 1]
    assert first == [row["gradient_norm"] for row in held if row["step"] == 1]
    assert min(first) > 1e-2
    assert any(not torch.allclose(tensor, clipped[name], atol=1e-5) for name, tensor in weights.items())


def test_weight_decay_shrinks_weights_by_its_share_of_the_rate_beside_the_gradient() -> None:
    update = UpdateConfig(learning_rate=0.1, weight_decay=0.5, max_grad_norm=1e6)
    for start, zero, end in _descended(update, [0.0])[1]:
        assert not zero.any()
        torch.testing.assert_close(end, (1 - 0.1 * 0.5) * start)
    for start, first, second, end in _descended(update, [3.0, 2.0])[1]:
        torch.testing.assert_close(end.double(), _adamw(start, [first, second], 0.1, decay=0.5), rtol=1e-4, atol=1e-6)


def _dealt(store: Path, problems: int = 7, **update: int) -> tuple[Job, list[TrainingExample]]:
    ran = drive(store, duo(problems=problems, update=UpdateConfig(**update)), until="advantages")  # type: ignore[arg-type]
    job = ran.resolver.resolve(step_named("update"), ran.artifacts).job
    return job, build_examples(job)


def test_every_lesson_is_dealt_once_an_epoch_and_a_problems_lessons_together(store: Path) -> None:
    job, examples = _dealt(store, epochs=4, minibatches=3)
    plans = make_minibatches(job, examples)
    assert [(plan.number, plan.epoch) for plan in plans] == [(n, 1 + (n - 1) // 3) for n in range(1, 13)]
    everything = sorted(example.row.decision_id for example in examples)
    assert len(everything) == 7 * (2 + 8)
    for epoch in range(1, 5):
        of_epoch = [plan for plan in plans if plan.epoch == epoch]
        assert sorted(example.row.decision_id for plan in of_epoch for example in plan.examples) == everything
        assert sorted(len({example.problem_id for example in plan.examples}) for plan in of_epoch) == [2, 2, 3]


def test_the_order_is_another_in_every_epoch_and_for_every_seed_and_round_and_the_same_again(store: Path) -> None:
    # 16 problems to 4 steps: 63 million ways, so that none comes twice by chance
    job, examples = _dealt(store, problems=16, epochs=4, minibatches=4)

    def order(seed: int, round: int = 1) -> list[tuple[str, ...]]:
        asked = replace(job, round=round, config=job.config.model_copy(update={"seed": seed}))
        return [
            tuple(example.row.decision_id for example in plan.examples) for plan in make_minibatches(asked, examples)
        ]

    found = [order(0), order(1), order(2), order(0, round=2)]
    epochs = [tuple(steps[first : first + 4]) for steps in found for first in range(0, 16, 4)]
    assert len(set(epochs)) == len(epochs) == 16
    assert order(0) == found[0]


def test_a_step_that_was_dealt_nothing_moves_nothing(store: Path) -> None:
    update = {"minibatches": 3, "checkpoint_steps": 1}
    job, examples = _dealt(store, problems=2, **update)
    assert [len(plan.examples) for plan in make_minibatches(job, examples)] == [10, 10, 0]
    config = job.config.model_copy(update={"update": job.config.update.model_copy(update={"weight_decay": 0.5})})
    parts = drive(store, config).artifacts["update"].parts()
    tables = [load_table(part / "weights" / "team", 3) for part in parts]
    assert [{row["step"] for row in read_part(part, "steps")} for part in parts] == [{1}, {2}, set()]
    assert _changed(tables[0], tables[1]) and not _changed(tables[1], tables[2])


def _changed(one: Mapping[str, Vector], other: Mapping[str, Vector]) -> bool:
    assert one.keys() == other.keys()
    return any((one[key] != other[key]).any() for key in one)


def test_the_schedule_sets_the_rate_of_every_step(store: Path) -> None:
    schedule = ScheduleConfig(kind="linear", rounds=2)
    config = duo(update=UpdateConfig(learning_rate=0.8, minibatches=2, schedule=schedule))
    rates = [[row["learning_rate"] for row in drive(store, config, round=number).rows("steps")] for number in (1, 2)]
    assert [sorted(set(of), reverse=True) for of in rates] == [pytest.approx([0.8, 0.6]), pytest.approx([0.4, 0.2])]


def test_each_policy_has_its_rate_and_a_frozen_role_is_left_out(store: Path) -> None:
    policies = {"proposer": PolicyConfig(learning_rate=0.25), "critic": PolicyConfig()}
    update = UpdateConfig(learning_rate=0.5, frozen_roles=("proposer_2",))
    round = drive(store, four_turns(policies=policies, update=update))
    assert {(row["policy"], row["learning_rate"]) for row in round.rows("steps")} == {
        ("proposer", 0.25),
        ("critic", 0.5),
    }
    assert {row["role"] for row in round.rows("steps")} == {"proposer_1", "critic_1"}
    assert {row["skipped"] for row in round.rows("update_rows") if row["role"] == "proposer_2"} == {"frozen role"}


def test_one_adapter_per_role_takes_three_overrides(store: Path) -> None:
    split = ["policies={reasoner={},actor={}}", "roles.reasoner.policy=reasoner", "roles.actor.policy=actor"]
    assert "--set 'policies={reasoner={},actor={}}'" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(load_config("arithmetic-duo", split).policies) == {"reasoner", "actor"}
    round = drive(store, load_config("scripted-duo", split))
    assert {(row["role"], row["policy"]) for row in round.rows("steps")} == {
        ("reasoner", "reasoner"),
        ("actor", "actor"),
    }
    assert {path.name for path in (round.artifacts["update"].parts()[-1] / "weights").iterdir()} == {
        "reasoner",
        "actor",
    }


def test_the_entropy_of_a_world_where_every_word_is_as_likely(store: Path) -> None:
    # a message is a word of three, entropy ln 3, and its end, which is certain
    config = duo(engine=ScriptedEngineConfig(spread=0.0), update=UpdateConfig(minibatches=1))
    rows = drive(store, config).rows("steps")
    assert [row["entropy"] for row in rows] == pytest.approx([log(3) / 2] * len(rows))
    assert {row["role"] for row in rows} == {"reasoner", "actor"}


def test_gaps_are_stored_per_role(store: Path) -> None:
    round = drive(store, duo(update=UpdateConfig(minibatches=1)))
    rows = {row["role"]: row for row in round.rows("logprob_mismatch")}
    assert set(rows) == {"reasoner", "actor"}
    skipped = [row for row in round.rows("update_rows") if row["skipped"]]
    assert sum(row["rows"] for row in rows.values()) == len(round.rows("update_rows")) - len(skipped)
    assert all(
        row["mean_mismatch"] < 1e-6 and row["policy_version"] == round.resolver.policy_before.version
        for row in rows.values()
    )


def test_rows_without_the_engines_log_probs_are_left_out_of_importance_weights(store: Path) -> None:
    ran = drive(store, duo(update=UpdateConfig(truncated_importance=2.0)), until="advantages")
    job = ran.resolver.resolve(step_named("update"), ran.artifacts).job
    first = job.rows("decisions")[0]
    first["behaviour_logprobs"] = None
    skipped = {example.row.decision_id: example.skipped for example in build_examples(job)}
    assert skipped[first["decision_id"]] == "no behaviour log-probs"
    assert set(skipped.values()) == {"no behaviour log-probs", None}


@pytest.mark.parametrize(("undefined", "rows", "loss"), [("skip", 1, -2.0), ("zero", 1, -2.0 / 3)])
def test_a_null_advantage_leaves_the_denominator_and_a_zero_stays_in_it(
    store: Path, undefined: str, rows: int, loss: float
) -> None:
    # three messages of a role, 2 tokens each, ratio 1, advantages 2, NULL, NULL: -2 * 2 over the 2 tokens of the first,
    # or over the 6 of all three; either way only the first is computed
    update = UpdateConfig(undefined_advantage=undefined, minibatches=1)  # type: ignore[arg-type]
    ran = drive(store, duo(update=update), until="advantages")
    job = ran.resolver.resolve(step_named("update"), ran.artifacts).job
    for row in job.rows("advantages"):
        row["advantage"] = None
    actors = [row for row in job.rows("advantages") if row["role"] == "actor"][:3]
    actors[0]["advantage"] = 2.0
    kept = {row["decision_id"] for row in actors}
    examples = [example for example in build_examples(job) if example.row.decision_id in kept]
    assert [example.advantage for example in examples] == [2.0, *[None if undefined == "skip" else 0.0] * 2]
    assert [len(example.row.token_ids) for example in examples] == [2, 2, 2]
    [plan] = make_minibatches(job, examples)
    learner = make_learner(job.config)
    learner.load(job.weights, seed=0)
    learner.prepare([example.row for example in plan.examples])
    trainer = Trainer(job.config, 1, learner, None)
    trainer.measure([plan], examples, list(job.config.policies))
    [figures] = trainer.step(plan, 1)
    assert (figures["rows"], figures["ratio_mean"]) == (rows, 1.0)
    assert figures["loss"] == pytest.approx(loss)


def _kept(config: Config, others: Sequence[Config], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each of the others is served by the learner that the first was given."""
    import stages.learners.registry as make

    monkeypatch.setattr(make, "make_learner", lambda config: object())
    resources = Resources()
    first = resources.learner(config)
    return [resources.learner(other) is first for other in others]


def test_the_trainers_model_is_kept_while_nothing_it_is_made_from_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = duo()
    same = duo(update=UpdateConfig(learning_rate=0.5))
    assert learner_settings(config) == learner_settings(same)
    assert _kept(config, [same, config], monkeypatch) == [True, True]
    assert _kept(config, [duo(policies={"team": POLICY})], monkeypatch) == [False]
    let_go = duo(update=UpdateConfig(keep_model=False))
    assert _kept(let_go, [let_go], monkeypatch) == [False]


def test_the_trainers_model_stays_on_a_gpu_unless_vllm_wants_it_to_itself() -> None:
    def kept(kind: str, device: str, keep: str = "'auto'") -> bool:
        overrides = [f"engine={{kind='{kind}',model='embedded',device='{device}'}}", f"update.keep_model={keep}"]
        return keeps_model(load_config("arithmetic-duo", overrides))

    assert kept("transformers", "cuda") and kept("transformers", "cpu") and kept("vllm", "cpu")
    assert not kept("vllm", "cuda")
    assert kept("vllm", "cuda", "true") and not kept("transformers", "cuda", "false")
