"""Adapters merged into a model's weights for sampling, from the pristine base every time.

    W' = W + (alpha / r) B A      in float32, then rounded to the model's dtype

The base tensors are kept and never written to, so changing policies any number of times leaves no drift.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.errors import EngineError
from store.artifacts.policy_version import Adapter

_KEPT = 2
"""Merged policies kept at once: a team whose roles take turns between two adapters does not merge again each time."""
_PREFIX = "base_model.model."
_FULL = "weights.safetensors"
"""In place of an adapter: every weight of a policy that was trained in full."""
_UNSUPPORTED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "trainable_token_indices")


class MergedWeights:
    """Swaps a model's weights between the base and the policies merged last."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._base: dict[str, torch.Tensor] = {}
        self._merged: OrderedDict[str, dict[str, torch.Tensor]] = OrderedDict()
        self._transposed = {
            f"{name}.weight" for name, module in model.named_modules() if type(module).__name__ == "Conv1D"
        }

    def show(self, adapter: Adapter) -> None:
        """Give the model these weights. EngineError when the adapter does not fit it."""
        if adapter.directory is None:
            weights: dict[str, torch.Tensor] = {}
        elif adapter.digest in self._merged:
            self._merged.move_to_end(adapter.digest)
            weights = self._merged[adapter.digest]
        else:
            while len(self._merged) >= _KEPT:
                self._merged.popitem(last=False)
            weights = self._merge(adapter.directory)
            self._merged[adapter.digest] = weights
        for name in self._base.keys() | weights.keys():
            parameter = self._parameters[name]
            self._base.setdefault(name, parameter.data)
            parameter.data = weights.get(name, self._base[name])

    @torch.no_grad()
    def _merge(self, directory: Path) -> dict[str, torch.Tensor]:
        if (directory / _FULL).exists():
            return self._full(directory)
        config, tensors = read_adapter(directory)
        scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
        merged = {}
        for name, (down, up) in _pairs(directory, tensors).items():
            if name not in self._parameters:
                raise EngineError(f"adapter {directory}: no weight {name} here; it was trained on another model")
            parameter = self._parameters[name]
            base = self._base.get(name, parameter.data)
            delta = scale * (up.to(base.device, torch.float32) @ down.to(base.device, torch.float32))
            delta = delta.T if name in self._transposed else delta
            if delta.shape != base.shape:
                raise EngineError(
                    f"adapter {directory}: {name} is {tuple(delta.shape)}, the model's {tuple(base.shape)}; "
                    f"it was trained on another model"
                )
            merged[name] = (base.float() + delta).to(base.dtype)
        return merged

    def _full(self, directory: Path) -> dict[str, torch.Tensor]:
        try:
            tensors = load_file(directory / _FULL)
        except (OSError, SafetensorError) as error:
            raise EngineError(f"weights {directory}: not readable: {error}; make the update again") from error
        shapes = {name: parameter.shape for name, parameter in self._parameters.items()}
        if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
            raise EngineError(f"weights {directory}: they are of another model; start another run with --run NAME")
        return {
            name: tensors[name].to(parameter.device, parameter.dtype) for name, parameter in self._parameters.items()
        }


def read_adapter(directory: Path) -> tuple[dict[str, Any], Mapping[str, torch.Tensor]]:
    """Return a PEFT LoRA directory's configuration and tensors. EngineError when it is none that can be merged."""
    try:
        config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(directory / "adapter_model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise EngineError(f"adapter {directory}: not readable: {error}; make the update again") from error
    odd = [key for key in _UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        raise EngineError(f"adapter {directory}: only plain LoRA can be merged, got {odd or config.get('peft_type')}")
    return config, tensors


def _pairs(directory: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return weight name -> (A [r, in], B [out, r])."""
    pairs = {}
    for key in sorted(tensors):
        module, mark, _ = key.removeprefix(_PREFIX).partition(".lora_A.")
        if mark:
            other = key.replace(".lora_A.", ".lora_B.")
            if other not in tensors:
                raise EngineError(f"adapter {directory}: {key} has no lora_B beside it; make the update again")
            pairs[f"{module}.weight"] = (tensors[key], tensors[other])
    if len(tensors) != 2 * len(pairs):
        raise EngineError(f"adapter {directory}: {len(tensors)} tensors, of which {2 * len(pairs)} are LoRA pairs")
    return pairs
