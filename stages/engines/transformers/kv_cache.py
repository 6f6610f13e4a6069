"""The attention cache while decoding: room made once, written in place, shared heads read where they lie.

Two things that transformers does every step cost more than the products themselves on a CPU: it appends to the cache
by copying it, and repeats every key and value head for each query head that shares it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values [rows, heads, room, width] with a written length; grows in place up to its room."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._length = keys, values, length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states behind the old; views of all that is written."""
        assert self.keys is not None, "a roomy layer is made with its buffers"
        assert self.values is not None, "a roomy layer is made with its buffers"
        start, self._length = self._length, self._length + key_states.shape[-2]
        self.keys[:, :, start : self._length] = key_states
        self.values[:, :, start : self._length] = value_states
        return self.keys[:, :, : self._length], self.values[:, :, : self._length]

    def get_seq_length(self) -> int:
        """Return how many tokens are written."""
        return self._length


def preallocate(cache: Cache, row_B: torch.Tensor, room: int) -> Cache:
    """Return the cache for rows `row_B` of it (a row may come several times), with room for `room` more tokens.

    Layers of other kinds than plain attention (sliding windows, recurrent states) keep their own way of growing.
    """
    for index, layer in enumerate(cache.layers):
        if isinstance(layer, DynamicLayer) and type(layer) in (DynamicLayer, PreallocatedLayer):
            assert layer.keys is not None, "the prompts are in the cache"
            assert layer.values is not None, "the prompts are in the cache"
            length = layer.get_seq_length()
            keys, values = (_spread(states, row_B, length, room) for states in (layer.keys, layer.values))
            cache.layers[index] = PreallocatedLayer(keys, values, length)
        else:
            layer.reorder_cache(row_B)  # type: ignore[arg-type]  # annotated with the old name of the class
    return cache


def _spread(states: torch.Tensor, row_B: torch.Tensor, length: int, room: int) -> torch.Tensor:
    spread = states.new_empty((len(row_B), states.shape[1], length + room, states.shape[3]))
    spread[:, :, :length] = states[row_B, :, :length]
    return spread
