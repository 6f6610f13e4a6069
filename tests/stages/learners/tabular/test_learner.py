"""The tabular learner: the engine's softmax, differentiable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.engines import ScriptedEngineConfig
from configs.errors import UpdateError
from stages.engines.scripted.engine import ScriptedEngine
from stages.learners.protocol import Learner, TrainRow
from stages.learners.tabular.learner import TabularLearner
from stages.models.identity import base_digest
from stages.models.scripted_codec import END, ScriptedCodec
from stages.models.scripted_world import context_key, world_logits
from store.artifacts.policy_version import Adapter, PolicyVersion

CONFIG = ScriptedEngineConfig(words=("ant", "bee", "cat"), world_seed=3)
BASE = base_digest(CONFIG)
UNTRAINED = PolicyVersion("untrained", BASE, {"team": Adapter("none", None)})
CODEC = ScriptedCodec(CONFIG.words)


def _row(word: str, context: tuple[int, ...] = (1, 2, 3), temperature: float = 1.0, policy: str = "team") -> TrainRow:
    return TrainRow(f"{word}{context}", policy, context, (CODEC.word_id(word), END), temperature)


def _learner(*rows: TrainRow, policy: PolicyVersion = UNTRAINED) -> TabularLearner:
    learner = TabularLearner(CONFIG)
    learner.load(policy, seed=0)
    learner.prepare(rows)
    return learner


def _engine(policy: PolicyVersion) -> ScriptedEngine:
    engine = ScriptedEngine(CONFIG)
    engine.use(policy)
    return engine


def _saved(learner: Learner, directory: Path) -> PolicyVersion:
    folders = learner.save(directory)
    return PolicyVersion("saved", BASE, {name: Adapter(name, folder) for name, folder in folders.items()})


def _trained(*rows: TrainRow) -> TabularLearner:
    """A learner whose deltas are all different and none is zero."""
    learner = _learner(*rows)
    with torch.no_grad():
        for policy in ("other", "team"):
            for place, (_, delta) in enumerate(learner.named_parameters(policy), start=1):
                delta.add_(torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64) * place)
    return learner


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_untrained_learner_agrees_with_the_engine(temperature: float) -> None:
    rows = [_row(word, temperature=temperature) for word in CONFIG.words]
    expected = np.log(_engine(UNTRAINED).probabilities((1, 2, 3), "team", temperature))
    for row, log_pi, tensor in zip(rows, expected, _learner(*rows).logprobs(rows), strict=True):
        assert tensor.shape == (len(row.token_ids),)
        assert tensor.tolist() == pytest.approx([log_pi, 0.0], abs=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_gradient_is_one_minus_pi_over_temperature(temperature: float) -> None:
    row = _row("bee", temperature=temperature)
    learner = _trained(row)
    [(_, delta)] = learner.named_parameters("team")
    learner.logprobs([row])[0].sum().backward()
    # d log softmax(z / t)[a] / dz = (1[a] - pi) / t
    logits = (world_logits(CONFIG, context_key(row.context_ids)) + delta.detach().numpy()) / temperature
    pi = np.exp(logits) / np.exp(logits).sum()
    assert delta.grad is not None
    np.testing.assert_allclose(delta.grad.numpy(), (np.array([0, 1, 0]) - pi) / temperature, atol=1e-12)


def test_the_gradient_agrees_with_finite_differences() -> None:
    rows = [_row("ant"), _row("cat"), _row("bee", (9,), temperature=0.7)]
    learner = _trained(*rows)
    weights = (0.4, -1.3, 2.0)

    def objective() -> torch.Tensor:
        return sum((w * t.sum() for w, t in zip(weights, learner.logprobs(rows), strict=True)), torch.zeros(()))

    objective().backward()
    step = 1e-6
    for _, delta in learner.named_parameters("team"):
        assert delta.grad is not None
        for word in range(3):
            with torch.no_grad():
                delta[word] += step
                above = objective().item()
                delta[word] -= 2 * step
                below = objective().item()
                delta[word] += step
            assert delta.grad[word].item() == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_after_saving_the_engine_samples_from_the_learners_softmax(tmp_path: Path) -> None:
    rows = [_row("ant"), _row("bee", (4, 5)), _row("cat", policy="other")]
    learner = _trained(*rows)
    engine = _engine(_saved(learner, tmp_path))
    for row in rows:
        alternatives = [_row(word, row.context_ids, 0.8, row.policy) for word in CONFIG.words]
        learned = [tensor[0].exp().item() for tensor in learner.logprobs(alternatives)]
        probabilities = engine.probabilities(row.context_ids, row.policy, 0.8)
        np.testing.assert_allclose(probabilities, learned, rtol=1e-12)
        untrained = _engine(UNTRAINED).probabilities(row.context_ids, row.policy, 0.8)
        assert np.abs(probabilities - untrained).max() > 0.05


def test_weights_come_back_exactly_and_saving_them_again_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = [_row("ant"), _row("bee", (4, 5)), _row("cat", policy="other")]
    first = _trained(*rows)
    version = _saved(first, tmp_path / "first")
    again = _learner(policy=version)
    for policy in ("team", "other"):
        before, after = list(first.named_parameters(policy)), list(again.named_parameters(policy))
        assert [name for name, _ in before] == [name for name, _ in after]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(before, after, strict=True))
    _saved(again, tmp_path / "second")
    for policy in ("team", "other"):
        [file] = (tmp_path / "first" / policy).iterdir()
        assert file.read_bytes() == (tmp_path / "second" / policy / file.name).read_bytes()


def test_parameters_come_in_one_order_whatever_the_order_of_rows() -> None:
    rows = [_row("ant", (context,)) for context in range(10)]
    forward, backward = _learner(*rows), _learner(*reversed(rows))
    names = [name for name, _ in forward.named_parameters("team")]
    assert names == [name for name, _ in backward.named_parameters("team")] == sorted(names)
    assert len(names) == 10


def test_preparing_twice_keeps_what_was_learned() -> None:
    learner = _trained(_row("ant"))
    [(_, before)] = learner.named_parameters("team")
    learner.prepare([_row("bee"), _row("bee", (7,))])
    assert any(after is before for _, after in learner.named_parameters("team"))
    assert len(list(learner.named_parameters("team"))) == 2


def test_an_unknown_context_reads_as_untrained_but_is_never_trained_silently() -> None:
    learner, row = _learner(), _row("ant")
    with torch.no_grad():
        [tensor] = learner.logprobs([row])
    assert tensor[0].item() == pytest.approx(np.log(_engine(UNTRAINED).probabilities((1, 2, 3), "team")[0]))
    with pytest.raises(UpdateError, match="prepare"):
        learner.logprobs([row])


def test_a_cut_message_has_no_end_to_learn() -> None:
    row = TrainRow("cut", "team", (1, 2, 3), (CODEC.word_id("ant"),), 1.0)
    assert _learner(row).logprobs([row])[0].shape == (1,)


@pytest.mark.parametrize("token_ids", [(), (END,), (65,), (260, END), (257, 257), (257, END, END), (257, 65)])
def test_tokens_that_are_no_message_of_the_world_are_refused(token_ids: tuple[int, ...]) -> None:
    row = TrainRow("forged", "team", (1, 2, 3), token_ids, 1.0)
    with pytest.raises(UpdateError, match="decision forged"):
        _learner(row).logprobs([row])


def test_batches_hold_every_row_once_within_the_limit_and_keep_contexts_together() -> None:
    rows = [_row(word, (context,) * 10) for word in CONFIG.words for context in range(5)]
    batches = _learner(*rows).batches(rows, max_tokens=32)  # one context: 10 + 3 x 2 = 16 tokens, so two fit
    assert [len(batch) for batch in batches] == [6, 6, 3]
    assert sorted(row.decision_id for batch in batches for row in batch) == sorted(row.decision_id for row in rows)
    for batch in batches:
        tokens = sum(len(context) for context in {row.context_ids for row in batch})
        assert tokens + sum(len(row.token_ids) for row in batch) <= 32


def test_a_group_too_long_for_a_batch_is_cut_and_a_row_too_long_goes_alone() -> None:
    rows = [_row(word, (1,) * 10) for word in CONFIG.words]
    assert [len(batch) for batch in _learner(*rows).batches(rows, max_tokens=14)] == [
        2,
        1,
    ]  # 10 + 2 + 2, 10 + 2
    assert [len(batch) for batch in _learner(*rows).batches(rows, max_tokens=5)] == [1, 1, 1]
    assert _learner().batches([], max_tokens=5) == []
