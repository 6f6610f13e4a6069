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
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    JetMoeConfig,
    Lfm2Config,
    MambaConfig,
    MistralConfig,
    MptConfig,
    PreTrainedConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from configs.errors import StoreError, UpdateError
from configs.training import PolicyConfig
from stages.learners.lora.learner import LoraLearner
from stages.learners.protocol import TrainRow
from stages.learners.scoring import causal as causal_scoring
from stages.learners.scoring import token_logprobs as spoken
from stages.learners.scoring import trie_attention
from stages.learners.scoring.causal import CausalScorer
from stages.learners.scoring.packing import pack, packed_batches, padded_batches
from stages.models.adapter_files import adapter_digest
from store.artifacts.policy_version import Adapter, PolicyVersion, initial_policy
from tests.support.tiny_models import END, FAMILIES, TARGETS, VOCABULARY, WINDOW, logprobs_alone, tiny_model

UNTRAINED = initial_policy("base", ["team"])

AWKWARD = [
    ((1, 2, 3), (4,)),  # one token: no node of its own
    ((1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11, 12)),
    ((1, 2, 3), (4, 5, 6)),  # the beginning of the row above
    ((1, 2, 3), (4, 5, 6)),  # the same again
    ((1, 2, 3, 4, 5), (6, 7)),  # a context that is another row's context and message
    ((9,), (1, 2)),  # shares nothing, one token of context
    ((1, 2, *[20] * 40), (3, 3)),  # long context, short message
    ((8,), (5,)),  # one token and one token
    ((1, 2, 3), (4, 5, END)),  # ended
    ((1, 2, 3), (END,)),  # ended at once
    (tuple(range(1, 41)), tuple(token % 47 for token in range(57))),  # the whole window, the last token is not fed
]


def _rows(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]], temperature: float = 1.0) -> list[TrainRow]:
    return [TrainRow(f"d{i}", "team", context, tokens, temperature) for i, (context, tokens) in enumerate(pairs)]


def _learner(family: str, layout: str, dropout: float = 0.0, checkpointing: bool = False) -> LoraLearner:
    policy = PolicyConfig(lora_rank=4, lora_alpha=8, lora_dropout=dropout, target_modules=TARGETS[family])
    learner = LoraLearner(tiny_model(family), {"team": policy}, layout, checkpointing=checkpointing)  # type: ignore[arg-type]
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


def _assert_same(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, gradient in wanted.items():
        assert (got[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_block_by_block_is_attention(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # blocks of 7 queries cut through contexts and messages; nothing may fall back on the attention over all pairs
    wanted_N, wanted = _logprobs_and_gradients(_learner(family, "single"), _rows(AWKWARD))
    learner = _learner(family, "packed")
    monkeypatch.setattr(trie_attention, "_BLOCK", 7)
    monkeypatch.setattr(trie_attention, "sdpa_attention_forward", None)
    got_N, got = _logprobs_and_gradients(learner, _rows(AWKWARD))
    torch.testing.assert_close(got_N, wanted_N, rtol=1e-5, atol=1e-5)
    _assert_same(got, wanted)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_packing_in_bfloat16_is_as_near_the_truth_as_one_sequence_at_a_time(family: str) -> None:
    # both round; what packing adds may not be more than rounding itself: errors against float32, of everything at once
    def found(layout: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        policy = PolicyConfig(lora_rank=4, lora_alpha=8, target_modules=TARGETS[family])
        learner = LoraLearner(tiny_model(family).to(dtype), {"team": policy}, layout)  # type: ignore[arg-type]
        learner.load(UNTRAINED, seed=1)
        _disturb(learner)
        logprob_N, gradients = _logprobs_and_gradients(learner, _rows(AWKWARD))
        assert logprob_N.dtype == torch.float32
        assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
        return logprob_N, torch.cat([gradient.flatten() for gradient in gradients.values()])

    exact = found("single", torch.float32)
    for truth, packed, alone in zip(
        exact, found("packed", torch.bfloat16), found("single", torch.bfloat16), strict=True
    ):
        rounding = (alone - truth).norm()
        assert 0 < rounding < 0.1 * truth.norm()
        assert (packed - truth).norm() <= 1.5 * rounding


def test_a_block_meets_only_what_one_of_its_queries_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    # 1 2 | 3 4 (5) and 1 2 | 6 7 (8): nodes 1 2 3 4 6 7; in blocks of two the last sees 1 2 6 7 and neither 3 nor 4
    monkeypatch.setattr(trie_attention, "_BLOCK", 2)
    mask_TT = pack(_rows([((1, 2), (3, 4, 5)), ((1, 2), (6, 7, 8))])).mask_TT
    first, second, third = trie_attention.blocks(mask_TT)
    assert (first.key_K, second.key_K) == (slice(0, 2), slice(0, 4))
    assert isinstance(third.key_K, torch.Tensor)
    assert third.key_K.tolist() == [0, 1, 4, 5]
    assert third.sees_QK.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_the_adapter_is_differentiated_as_peft_does_it(tmp_path: Path) -> None:
    learner = _learner("llama", "single")
    plain = PeftModel.from_pretrained(tiny_model(), learner.save(tmp_path)["team"], is_trainable=True)
    rows = _rows(AWKWARD)
    _, got = _logprobs_and_gradients(learner, rows)
    weight_N = torch.randn(sum(len(row.token_ids) for row in rows), generator=torch.Generator().manual_seed(7))
    logits = [plain(input_ids=torch.tensor([row.context_ids + row.token_ids])).logits[0] for row in rows]
    logprob_N = torch.cat(
        [
            logits_TV.log_softmax(-1)[torch.arange(len(row.token_ids)) + len(row.context_ids) - 1, row.token_ids]
            for row, logits_TV in zip(rows, logits, strict=True)
        ]
    )
    (weight_N * logprob_N).sum().backward()
    found = {name.replace(".default", ""): p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert found.keys() == got.keys()
    _assert_same(got, found)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_computed_again_give_the_same_gradients(family: str, layout: str) -> None:
    _, wanted = _logprobs_and_gradients(_learner(family, layout), _rows(AWKWARD))
    learner = _learner(family, layout, checkpointing=True)
    layers: list[int] = []
    handle = learner._scorer._recomputing[0].register_forward_pre_hook(lambda *_: layers.append(1))
    _, got = _logprobs_and_gradients(learner, _rows(AWKWARD))
    handle.remove()
    assert len(layers) == 2  # forward, and again when going back
    _assert_same(got, wanted)


def test_the_reference_is_the_model_without_its_adapter() -> None:
    learner, rows = _learner("llama", "packed"), _rows(AWKWARD)
    before = [logprob_T.detach() for logprob_T in learner.logprobs(rows)]
    for row, logprob_T in zip(rows, learner.reference_logprobs(rows), strict=True):
        wanted_T = logprobs_alone(tiny_model(), row.context_ids, row.token_ids, 1.0)
        torch.testing.assert_close(logprob_T, wanted_T, rtol=1e-5, atol=1e-5)
    after = learner.logprobs(rows)  # and the adapter is back
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert after[1].requires_grad


def test_log_probs_and_entropies_are_those_of_a_plain_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spoken, "_CHUNK", 3
    )  # so that chunks are cut, and one place predicts tokens of two chunks' worth
    generator = torch.Generator().manual_seed(0)
    logits_KV = (3 * torch.randn(8, 11, generator=generator)).requires_grad_()
    where_N, token_N = torch.tensor([0, 0, 0, 2, 3, 5, 7, 7]), torch.tensor([1, 1, 4, 0, 10, 3, 2, 6])
    temperature_K = torch.full((8,), 0.7)
    got = spoken.TokenLogprobs.apply(logits_KV, where_N, token_N, temperature_K)
    log_pi_NV = (logits_KV / 0.7).log_softmax(-1)[where_N]
    wanted = (log_pi_NV.gather(1, token_N[:, None])[:, 0], -(log_pi_NV.exp() * log_pi_NV).sum(-1))
    weights = torch.randn(2, 8, generator=generator)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    for pair in ((0,), (1,), (0, 1)):  # each alone and together
        slopes = [
            torch.autograd.grad(sum((weights[i] * of[i]).sum() for i in pair), logits_KV, retain_graph=True)[0]
            for of in (got, wanted)
        ]
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def test_single_is_a_plain_forward_pass_of_the_model_with_its_adapter(tmp_path: Path) -> None:
    learner = _learner("llama", "single")
    plain = PeftModel.from_pretrained(tiny_model(), learner.save(tmp_path)["team"])
    rows = _rows(AWKWARD, temperature=0.7)
    for row, logprob_T in zip(rows, learner.logprobs(rows), strict=True):
        wanted_T = logprobs_alone(plain, row.context_ids, row.token_ids, 0.7)
        torch.testing.assert_close(logprob_T.detach(), wanted_T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_readings_are_the_hidden_states_of_a_plain_forward_pass(family: str) -> None:
    rows = _rows(AWKWARD)
    learner = _learner(family, "single")
    packed = _learner(family, "packed").read(rows)
    for row, alone, together in zip(rows, learner.read(rows), packed, strict=True):
        seen = torch.tensor([row.context_ids + row.token_ids[:-1]])
        with torch.no_grad():
            hidden = learner._model(input_ids=seen, output_hidden_states=True).hidden_states[-1][0]
        for reading in (alone, together):
            torch.testing.assert_close(reading.context_D, hidden[len(row.context_ids) - 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(reading.message_D, hidden[-1], rtol=1e-4, atol=1e-5)


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


_SIZES = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
_GROUPED = {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": WINDOW}
UNPACKABLE: dict[str, PreTrainedConfig] = {
    "ALiBi": MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=WINDOW),
    "ALiBi by a mask": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "convolutions": Lfm2Config(**_GROUPED, layer_types=["conv", "full_attention"], pad_token_id=0, eos_token_id=END),
    "a recurrence": MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8),
}
"""Models that look at the order in memory, or at masks of another shape."""


def _random_model(config: PreTrainedConfig, spread: float, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_config(config)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread, generator=draw)
    return model.to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", UNPACKABLE)
def test_a_model_that_looks_at_the_order_in_memory_is_refused(kind: str, dtype: torch.dtype) -> None:
    model = _random_model(UNPACKABLE[kind], 0.1, dtype)
    with pytest.raises(UpdateError, match=r'^learner: this model.*; set update.layout = "padded"$'):
        CausalScorer(model, model, "packed").check_packing("team")


def test_in_bfloat16_too_a_small_difference_that_is_no_rounding_is_refused() -> None:
    # ALiBi where attention hardly matters: log-probs are off by a tenth, less than what bfloat16 may be for another model
    model = _random_model(UNPACKABLE["ALiBi"], 0.02, torch.bfloat16)
    with pytest.raises(UpdateError, match="does not read position ids and masks alone"):
        CausalScorer(model, model, "packed").check_packing("team")


@pytest.mark.parametrize("spread", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_a_model_that_can_be_packed_passes(family: str, spread: float) -> None:
    model = _random_model(tiny_model(family).config, spread, torch.bfloat16)
    before = {name: (parameter.data_ptr(), parameter.dtype) for name, parameter in model.named_parameters()}
    judged = set()
    model.get_output_embeddings().register_forward_hook(lambda head, given, logits: judged.add(logits.dtype))
    CausalScorer(model, model, "packed").check_packing("team")
    assert judged == {torch.float32}  # where padded rows equal single ones to the bit, no bound in bfloat16 holds
    assert before == {name: (parameter.data_ptr(), parameter.dtype) for name, parameter in model.named_parameters()}


def test_a_weight_that_a_layer_shares_with_what_is_outside_it_is_float32_in_both() -> None:
    class Layer(GradientCheckpointingLayer):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.shared = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.shared(self.inner(x))

    layer, head = Layer(), torch.nn.Linear(4, 4)
    head.weight = layer.shared.weight
    model = torch.nn.Sequential(layer, layer, head).to(torch.bfloat16)
    with causal_scoring._in_float32(model):
        assert model(torch.ones(1, 4)).dtype == torch.float32
        assert layer.inner.weight.dtype == torch.bfloat16  # between its turns
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_model_that_fails_on_the_check_has_its_own_weights_again() -> None:
    model = _random_model(UNPACKABLE["a recurrence"], 0.1, torch.bfloat16)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    with pytest.raises(UpdateError):
        CausalScorer(model, model, "packed").check_packing("team")
    assert before == {name: parameter.data_ptr() for name, parameter in model.named_parameters()}


def test_a_row_past_a_sliding_window_is_refused_when_packed_and_scored_when_padded() -> None:
    model = _random_model(MistralConfig(**_GROUPED, sliding_window=8), 0.3)
    packed = CausalScorer(model, model, "packed")
    packed.check_packing("team")
    fitting, past = _rows([((1, 2, 3, 4), (5, 6, 7, 8, 9)), ((1, 2, 3, 4), (5, 6, 7, 8, 9, 1))])
    packed.score([fitting])
    with pytest.raises(UpdateError, match=r'a row of 9 tokens is past .* attention window of 8.*layout = "padded"'):
        packed.score([fitting, past])
    plain = _random_model(model.config, 0.3)
    [scored] = CausalScorer(plain, plain, "padded").score([past])
    torch.testing.assert_close(scored.logprob_T, logprobs_alone(plain, past.context_ids, past.token_ids, 1.0))


def test_a_model_that_cannot_recompute_its_activations_is_refused_by_name() -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 2}
    model = _random_model(JetMoeConfig(**sizes, kv_channels=8, intermediate_size=16, num_local_experts=2), 0.1)
    with pytest.raises(UpdateError, match=r"update.gradient_checkpointing: JetMoeForCausalLM cannot recompute"):
        CausalScorer(model, model, "padded", checkpointing=True)


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
    fresh = LoraLearner(tiny_model(), {"team": PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"])})
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
    wider = LoraLearner(tiny_model(), {"team": PolicyConfig(lora_rank=8, target_modules=TARGETS["llama"])}, "single")
    with pytest.raises(UpdateError, match="another rank than configured"):
        wider.load(PolicyVersion("v1", "base", {"team": Adapter("d", saved)}), seed=0)


def test_a_corrupt_adapter_has_no_digest(tmp_path: Path) -> None:
    saved = _learner("llama", "single").save(tmp_path)["team"]
    file = saved / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(StoreError, match="cut short"):
        adapter_digest(saved)


def test_policies_train_apart() -> None:
    policies = {name: PolicyConfig(lora_rank=4, target_modules=TARGETS["llama"]) for name in ("one", "two")}
    learner = LoraLearner(tiny_model(), policies)
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
        LoraLearner(tiny_model(), policies).logprobs(rows)


def test_modules_that_the_model_lacks_are_named() -> None:
    with pytest.raises(UpdateError, match=r"policies.team.target_modules: nowhere"):
        LoraLearner(tiny_model(), {"team": PolicyConfig(target_modules=("nowhere",))})


def test_dropout_acts_while_training_and_not_while_measuring() -> None:
    learner = _learner("llama", "packed", dropout=0.5)
    rows = _rows(AWKWARD[:2])
    with torch.no_grad():
        measured = [torch.cat(learner.logprobs(rows)) for _ in range(2)]
    assert torch.equal(*measured)
    assert not torch.allclose(torch.cat(learner.logprobs(rows)), measured[0], atol=1e-4)
    assert max(token for context, tokens in AWKWARD for token in context + tokens) < VOCABULARY


def test_the_awkward_rows_reach_the_edge_of_the_window() -> None:
    assert max(len(context) + len(tokens) - 1 for context, tokens in AWKWARD) == WINDOW
