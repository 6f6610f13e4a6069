"""Packed, padded and one at a time: the same log-probs and the same gradients."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tiny_models import FAMILIES, TARGETS, VOCABULARY, logprobs_alone, tiny_model

from configs.errors import StoreError, UpdateError
from configs.schema import PolicyConfig
from stages.learners.adapter_files import adapter_digest
from stages.learners.lora import LoraLearner
from stages.learners.packing import pack, packed_batches, padded_batches
from stages.learners.protocol import TrainRow
from store.policies import Adapter, PolicyVersion, initial_policy

UNTRAINED = initial_policy("base", ["team"])

AWKWARD = [
    ((1, 2, 3), (4,)),  # one token: no node of its own
    ((1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11, 12)),
    ((1, 2, 3), (4, 5, 6)),  # the beginning of the row above
    ((1, 2, 3), (4, 5, 6)),  # the same again
    ((1, 2, 3, 4, 5), (6, 7)),  # a context that is another row's context and message
    ((9,), (1, 2)),  # shares nothing, one token of context
    ((1, 2, *[20] * 40), (3, 3)),  # long context, short message
]


def _rows(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], temperature: float = 1.0) -> list[TrainRow]:
    return [TrainRow(f"d{i}", "team", context, tokens, temperature) for i, (context, tokens) in enumerate(pairs)]


def _learner(family: str, layout: str, dropout: float = 0.0) -> LoraLearner:
    policy = PolicyConfig(lora_rank=4, lora_alpha=8, lora_dropout=dropout, target_modules=TARGETS[family])
    learner = LoraLearner.of_model(tiny_model(family), {"team": policy}, layout)  # type: ignore[arg-type]
    learner.load(UNTRAINED, seed=1)
    _disturb(learner)
    return learner


@torch.no_grad()
def _disturb(learner: LoraLearner) -> None:
    """B away from zero, else A would have no gradient and the adapter no effect."""
    for index, (name, parameter) in enumerate(learner.named_parameters("team")):
        if ".lora_B." in name:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))


def _logprobs_and_gradients(learner: LoraLearner, rows: list[TrainRow]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logprob_N = torch.cat(learner.logprobs(rows))
    weight_N = torch.randn(len(logprob_N), generator=torch.Generator().manual_seed(7))
    (weight_N * logprob_N).sum().backward()
    return logprob_N.detach(), {name: parameter.grad for name, parameter in learner.named_parameters("team")}


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_has_the_logprobs_and_gradients_of_one_sequence_at_a_time(family: str, layout: str) -> None:
    rows = _rows(AWKWARD)
    wanted_N, wanted = _logprobs_and_gradients(_learner(family, "single"), rows)
    got_N, got = _logprobs_and_gradients(_learner(family, layout), rows)
    torch.testing.assert_close(got_N, wanted_N, rtol=1e-5, atol=1e-5)
    for name, gradient in wanted.items():
        assert gradient.norm() > 0, name
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_single_is_a_plain_forward_pass_of_the_model_with_its_adapter(tmp_path: Path) -> None:
    learner = _learner("llama", "single")
    plain = PeftModel.from_pretrained(tiny_model(), learner.save(tmp_path)["team"])
    rows = _rows(AWKWARD, temperature=0.7)
    for row, logprob_T in zip(rows, learner.logprobs(rows), strict=True):
        wanted_T = logprobs_alone(plain, row.context_ids, row.token_ids, 0.7)
        torch.testing.assert_close(logprob_T.detach(), wanted_T, rtol=1e-5, atol=1e-5)


def test_rows_of_several_temperatures_share_a_batch() -> None:
    rows = [*_rows(AWKWARD[:3], 0.5), *_rows(AWKWARD[3:], 1.3)]
    wanted_N, got_N = (torch.cat(_learner("llama", layout).logprobs(rows)) for layout in ("single", "packed"))
    torch.testing.assert_close(got_N, wanted_N, rtol=1e-5, atol=1e-5)


def test_a_shared_prefix_has_one_node_per_token() -> None:
    # 1 2 3 | 4 5 (6)   and   1 2 3 | 4 7 (8)   and   1 2 | 9 (9): tokens 1 2 3 4 5 7 9; the last of a row has no node
    packed = pack(_rows([((1, 2, 3), (4, 5, 6)), ((1, 2, 3), (4, 7, 8)), ((1, 2), (9, 9))]))
    assert packed.token_T.tolist() == [1, 2, 3, 4, 5, 7, 9]
    assert packed.position_T.tolist() == [0, 1, 2, 3, 4, 4, 2]
    assert [nodes.tolist() for nodes in packed.predicting] == [[2, 3, 4], [2, 3, 5], [1, 6]]
    assert np.flatnonzero(packed.mask_TT[5]).tolist() == [0, 1, 2, 3, 5]  # 7 sees 1 2 3 4 and itself, not 5
    assert np.flatnonzero(packed.mask_TT[6]).tolist() == [0, 1, 6]


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(UpdateError, match="d0: empty context"):
        pack(_rows([((), (1, 2))]))


_TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=8).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_TOKENS, _TOKENS), min_size=1, max_size=9), st.integers(4, 40))
def test_batches_hold_every_row_once_and_keep_to_their_tokens(
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], max_tokens: int
) -> None:
    rows = _rows(pairs)
    for cut in (packed_batches, padded_batches):
        batches = cut(rows, max_tokens)
        assert sorted(row.decision_id for batch in batches for row in batch) == sorted(r.decision_id for r in rows)
        for batch in batches:
            packed = pack(batch)
            longest = max(len(row.context_ids) + len(row.token_ids) - 1 for row in batch)
            size = len(packed.token_T) if cut is packed_batches else len(batch) * longest
            assert size <= max_tokens or len(batch) == 1
            for row, nodes in zip(batch, packed.predicting, strict=True):  # a node's ancestors spell what the row saw
                path = np.flatnonzero(packed.mask_TT[nodes[-1]])
                assert tuple(packed.token_T[path]) == row.context_ids + row.token_ids[:-1]


def test_alternatives_of_one_context_stay_together() -> None:
    rows = _rows([((context, 1, 1), (token, 5)) for token in range(4) for context in range(6)])
    batches = packed_batches(rows, max_tokens=14)  # a context's trie is 3 + 4 = 7 nodes: two contexts to a batch
    assert [len(batch) for batch in batches] == [8, 8, 8]
    for one, other in pairwise(batches):
        assert not {row.context_ids for row in one} & {row.context_ids for row in other}


def test_a_fresh_adapter_is_the_base_model_and_a_function_of_the_seed(tmp_path: Path) -> None:
    rows = _rows(AWKWARD[:2])
    fresh = LoraLearner.of_model(tiny_model(), {"team": PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"])})
    digests = []
    for seed in (1, 1, 2):
        fresh.load(UNTRAINED, seed)
        digests.append(adapter_digest(fresh.save(tmp_path)["team"]))
        wanted_T = logprobs_alone(tiny_model(), rows[1].context_ids, rows[1].token_ids, 1.0)
        torch.testing.assert_close(fresh.logprobs(rows)[1].detach(), wanted_T, rtol=1e-5, atol=1e-5)
    assert digests[0] == digests[1] != digests[2]


def test_saved_adapters_are_the_same_bytes_and_load_again(tmp_path: Path) -> None:
    learner = _learner("llama", "packed")
    one, other = learner.save(tmp_path / "one")["team"], learner.save(tmp_path / "elsewhere/other")["team"]
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
        assert str(tmp_path).encode() not in (one / file).read_bytes()
    again = _learner("llama", "packed")
    again.load(PolicyVersion("v1", "base", {"team": Adapter("d", one)}), seed=99)
    for (name, loaded), (_, saved) in zip(
        again.named_parameters("team"), learner.named_parameters("team"), strict=True
    ):
        assert torch.equal(loaded, saved), name


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path) -> None:
    saved = _learner("llama", "single").save(tmp_path)["team"]
    wider = LoraLearner.of_model(
        tiny_model(), {"team": PolicyConfig(lora_rank=8, target_modules=TARGETS["llama"])}, "single"
    )
    with pytest.raises(UpdateError, match="another rank than configured"):
        wider.load(PolicyVersion("v1", "base", {"team": Adapter("d", saved)}), seed=0)


def test_a_damaged_adapter_has_no_digest(tmp_path: Path) -> None:
    saved = _learner("llama", "single").save(tmp_path)["team"]
    file = saved / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(StoreError, match="cut short"):
        adapter_digest(saved)


def test_policies_train_apart() -> None:
    policies = {name: PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"]) for name in ("one", "two")}
    learner = LoraLearner.of_model(tiny_model(), policies)
    learner.load(initial_policy("base", policies), seed=0)
    optimizers = {name: torch.optim.SGD([p for _, p in learner.named_parameters(name)], lr=0.01) for name in policies}
    before = torch.cat(learner.logprobs([TrainRow("d", "two", (1, 2), (3, 4), 1.0)])).detach()
    (-torch.cat(learner.logprobs([TrainRow("d", "one", (1, 2), (3, 4), 1.0)])).sum()).backward()
    assert all(parameter.grad is None for _, parameter in learner.named_parameters("two"))
    optimizers["one"].step()
    after = {name: torch.cat(learner.logprobs([TrainRow("d", name, (1, 2), (3, 4), 1.0)])) for name in policies}
    assert torch.equal(after["two"], before)
    assert after["one"].sum() > before.sum() + 1e-3  # B left zero, and the message became likelier


def test_rows_of_two_policies_are_not_mixed() -> None:
    policies = {name: PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"]) for name in ("one", "two")}
    rows = [TrainRow("d", name, (1,), (2,), 1.0) for name in policies]
    with pytest.raises(UpdateError, match="several policies"):
        LoraLearner.of_model(tiny_model(), policies).logprobs(rows)


def test_modules_that_the_model_lacks_are_named() -> None:
    with pytest.raises(UpdateError, match=r"policies.team.target_modules: nowhere"):
        LoraLearner.of_model(tiny_model(), {"team": PolicyConfig(target_modules=("nowhere",))})


def test_dropout_acts_while_training_and_not_while_measuring() -> None:
    learner = _learner("llama", "packed", dropout=0.5)
    rows = _rows(AWKWARD[:2])
    with torch.no_grad():
        measured = [torch.cat(learner.logprobs(rows)) for _ in range(2)]
    assert torch.equal(*measured)
    assert not torch.allclose(torch.cat(learner.logprobs(rows)), measured[0], atol=1e-4)
    assert max(token for context, tokens in AWKWARD for token in context + tokens) < VOCABULARY
