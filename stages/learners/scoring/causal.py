"""Scoring stored tokens with a causal model: their log-probs and entropies, whatever trains the model.

    log pi(a_t | h, a_<t) = log_softmax(logits(h, a_<t) / temperature)[a_t]

Three layouts of the same computation: "packed" (one trie of tokens, packing.py), "padded" (a plain batch) and "single" (one
sequence at a time, which the others are tested against). Logits are made at the places that predict a trained token only.

Axes: A rows, T nodes of a trie, L places of a padded row, N sampled tokens, K places that predict, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from configs.errors import UpdateError
from stages.learners.protocol import HiddenStates, Scored, TrainRow
from stages.learners.scoring.packing import PackedRows, pack, packed_batches, padded_batches
from stages.learners.scoring.token_logprobs import TokenLogprobs
from stages.learners.scoring.trie_attention import TRIE_ATTENTION, blocks

Layout = Literal["packed", "padded", "single"]


class CausalScorer:
    """One model under one layout. `model` is called as transformers' causal models are; it may be wrapped by PEFT.

    UpdateError when the model cannot be packed, or cannot recompute its activations.
    """

    def __init__(self, model: Any, base: Any, layout: Layout, checkpointing: bool = False) -> None:
        self._model, self._base, self._layout = model, base, layout
        weight = next(base.parameters())
        self._device = weight.device
        self._window = _attention_window(base.config.get_text_config())
        self._recomputing = _recomputing_layers(base) if checkpointing else []
        self._plans = layout == "packed" and self._device.type == "cpu" and base._supports_attention_backend
        if self._plans:
            base.set_attn_implementation(TRIE_ATTENTION)

    def batches(self, rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
        """Return micro-batches of at most `max_tokens` tokens as this layout counts them; rows of one context together."""
        if self._layout == "single":
            return [[row] for row in rows]
        return (packed_batches if self._layout == "packed" else padded_batches)(rows, max_tokens)

    def score(self, rows: Sequence[TrainRow]) -> list[Scored]:
        """Return, per row, the log-probs and entropies of its sampled tokens at its temperature, float32, differentiable.

        UpdateError when a row is longer than a packed model can see.
        """
        for layer in self._recomputing:  # transformers recomputes only in layers that train; their dropouts do not
            layer.training = torch.is_grad_enabled()
        if self._layout == "packed":
            return self._packed(rows)
        if self._layout == "padded":
            return self._padded(rows)
        return [scored for row in rows for scored in self._padded([row])]

    @torch.no_grad()
    def read(self, rows: Sequence[TrainRow]) -> list[HiddenStates]:
        """Return, per row, the backbone's last hidden state [D] at its context's end and at its message's end, float32."""
        if self._layout != "packed":
            return [self._reading(row) for row in rows]
        packed = self._packable(rows)
        hidden_TD = self._base.base_model(**self._fed(packed)).last_hidden_state[0].float()
        # copies: a view would keep every state of the batch
        return [
            HiddenStates(hidden_TD[place_N[0]].clone(), hidden_TD[place_N[-1]].clone()) for place_N in packed.predicting
        ]

    def _reading(self, row: TrainRow) -> HiddenStates:
        seen = self._tensor(np.array(row.context_ids + row.token_ids[:-1], np.int64))[None]
        hidden_TD = self._base.base_model(input_ids=seen, use_cache=False).last_hidden_state[0].float()
        return HiddenStates(hidden_TD[len(row.context_ids) - 1].clone(), hidden_TD[-1].clone())

    @torch.no_grad()
    def check_packing(self, policy: str) -> None:
        """Refuse a model that looks at the order in memory (ALiBi, recurrences) instead of positions and mask.

        In float32 whatever the model is in: bfloat16 rounds a large logit by more than some of these models differ by, and by
        how much depends on the processor's kernels.
        """
        rows = [TrainRow("packing check", policy, context, tokens, 1.0) for context, tokens in _PROBE]
        with _in_float32(self._base):
            try:
                alone = torch.cat([scored.logprob_T for row in rows for scored in self._padded([row])])
                packed = torch.cat([scored.logprob_T for scored in self._packed(rows)])
            except _ANY_MODELS_TROUBLE as error:
                raise UpdateError(
                    f"learner: this model takes no packed rows ({type(error).__name__}: "
                    f'{str(error).partition(chr(10))[0]}); set update.layout = "padded"'
                ) from error
        if not float((packed - alone).abs().max()) <= _ALIKE * max(1.0, float(alone.abs().max())):
            raise UpdateError(
                "learner: this model's log-probs change when rows are packed, so it does not read position ids and "
                'masks alone; set update.layout = "padded"'
            )

    def _packed(self, rows: Sequence[TrainRow]) -> list[Scored]:
        packed = self._packable(rows)
        place_N = np.concatenate(packed.predicting)
        # alternatives share the node that predicts their first token: its logits are made once
        needed_K, where_N = np.unique(place_N, return_inverse=True)
        logits_KV = self._model(**self._fed(packed), logits_to_keep=self._tensor(needed_K)).logits[0]
        return _spoken(logits_KV, self._tensor(where_N), rows)

    def _packable(self, rows: Sequence[TrainRow]) -> PackedRows:
        packed = pack(rows)
        depth = int(packed.position_T.max()) + 1
        if self._window is not None and depth > self._window:
            raise UpdateError(
                f"learner: a row of {depth} tokens is past this model's attention window of {self._window}, which a "
                f'packed batch cannot show; set update.layout = "padded"'
            )
        return packed

    def _fed(self, packed: PackedRows) -> dict[str, Any]:
        fed: dict[str, Any] = {
            "input_ids": self._tensor(packed.token_T)[None],
            "position_ids": self._tensor(packed.position_T)[None],
            "attention_mask": self._tensor(packed.mask_TT)[None, None],
            "use_cache": False,
        }
        if self._plans:  # transformers passes what it does not know on to the attention function
            fed["trie_plan"] = blocks(packed.mask_TT)
        return fed

    def _padded(self, rows: Sequence[TrainRow]) -> list[Scored]:
        seen = [row.context_ids + row.token_ids[:-1] for row in rows]
        longest = max(map(len, seen))
        token_AL = np.zeros((len(rows), longest), dtype=np.int64)
        real_AL = np.zeros((len(rows), longest), dtype=np.int64)
        for index, tokens in enumerate(seen):
            token_AL[index, : len(tokens)], real_AL[index, : len(tokens)] = tokens, 1
        kept = longest - min(len(row.context_ids) for row in rows) + 1
        logits_AKV = self._model(
            input_ids=self._tensor(token_AL),
            attention_mask=self._tensor(real_AL) if len(rows) > 1 else None,
            logits_to_keep=kept,
            use_cache=False,
        ).logits
        first = longest - kept  # the place that the first kept logits stand at
        where_N = np.concatenate(
            [
                index * kept + len(row.context_ids) - 1 - first + np.arange(len(row.token_ids))
                for index, row in enumerate(rows)
            ]
        )
        return _spoken(logits_AKV.flatten(0, 1), self._tensor(where_N), rows)

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


_PROBE = (((1, 2, 3, 4), (5, 6, 7, 8)), ((1, 2, 3, 4), (6, 5, 8)), ((1, 9, 4), (7, 7, 3, 2)))
_ALIKE = 1e-3
"""Of the largest log-prob. Rounding in float32 reaches a fortieth of it in SmolLM2, whose activations are large."""
_ANY_MODELS_TROUBLE = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""What a model's own code meets where it takes a mask of all pairs for something else."""


@contextmanager
def _in_float32(base: torch.nn.Module) -> Iterator[None]:
    """Hold the model's weights as float32 for a block, then as they were.

    Layers that transformers knows as such take turns: it saves memory.
    """
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    own: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.is_floating_point() and parameter.dtype != torch.float32:
                own[parameter] = parameter.data
                parameter.data = parameter.data.float()

    def restore(parameters: Iterable[torch.nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.data = own.pop(parameter, parameter.data)

    inside = {module for layer in layers for module in layer.modules()}
    throughout = {
        parameter for module in base.modules() if module not in inside for parameter in module.parameters(recurse=False)
    }
    widen(throughout)
    # a weight may be shared with what is outside
    own_of = {layer: [own for own in layer.parameters() if own not in throughout] for layer in layers}
    hooks = [layer.register_forward_pre_hook(lambda layer, _: widen(own_of[layer])) for layer in layers]
    hooks += [layer.register_forward_hook(lambda layer, *_: restore(own_of[layer])) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        restore(list(own))


def _spoken(logits_KV: torch.Tensor, where_N: torch.Tensor, rows: Sequence[TrainRow]) -> list[Scored]:
    """Score all rows' tokens; `where_N` is the row of logits that predicts each, rows end to end."""
    token_N = torch.tensor([token for row in rows for token in row.token_ids], device=logits_KV.device)
    temperature_N = torch.tensor([row.temperature for row in rows for _ in row.token_ids], device=logits_KV.device)
    if len({row.temperature for row in rows}) == 1:  # the usual case: one normaliser per place
        temperature_K = temperature_N[:1].expand(len(logits_KV))
    else:
        logits_KV, temperature_K = logits_KV[where_N], temperature_N
        where_N = torch.arange(len(where_N), device=where_N.device)
    logprob_N, entropy_N = TokenLogprobs.apply(logits_KV, where_N, token_N, temperature_K)
    lengths = [len(row.token_ids) for row in rows]
    return [Scored(*pair) for pair in zip(logprob_N.split(lengths), entropy_N.split(lengths), strict=True)]


def _recomputing_layers(base: Any) -> list[torch.nn.Module]:
    """Return the layers that can forget their activations and compute them again when going back."""
    if not base.supports_gradient_checkpointing:
        raise UpdateError(
            f"update.gradient_checkpointing: {type(base).__name__} cannot recompute its activations; set it to false and "
            f"lower update.max_tokens"
        )
    base.gradient_checkpointing_enable({"use_reentrant": False})
    return [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]


def _attention_window(config: Any) -> int | None:
    """Return how many tokens a layer with a sliding window sees; None where every layer sees all."""
    kinds = getattr(config, "layer_types", None)
    sliding = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return getattr(config, "sliding_window", None) if sliding else None
