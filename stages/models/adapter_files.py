"""Adapters on disk: PEFT's format, canonical: equal weights and settings are equal bytes, on any machine and path.

Torch-free to read: a digest needs only the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from configs.errors import StoreError
from configs.training import PolicyConfig
from store.disk.hashing import bytes_digest, canonical_json

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
FULL_FILE = "weights.safetensors"
"""Of a policy that was trained in full: every weight, float32."""


def adapter_config(policy: PolicyConfig, base_name: str, transposed: bool) -> dict[str, Any]:
    """Return what PEFT and vLLM need to load the adapter, and nothing that depends on where or when it was trained.

    `base_name` is a neutral name, not a path; `transposed`: the base stores its weights [in, out], as GPT-2 does.
    """
    return {
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "lora_alpha": policy.lora_alpha,
        "lora_dropout": policy.lora_dropout,
        "peft_type": "LORA",
        "r": policy.lora_rank,
        "target_modules": sorted(set(policy.target_modules)),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }


def write_adapter(directory: Path, config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write an adapter directory. `tensors` by PEFT's names, which do not hold the adapter's own name."""
    directory.mkdir(parents=True, exist_ok=True)
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    save_file(ordered, directory / TENSOR_FILE, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / CONFIG_FILE).write_text(text, encoding="utf-8")


def adapter_digest(directory: Path) -> str:
    """Digest over every tensor (name, dtype, shape, bytes) and the canonical configuration.

    Raises StoreError when the directory is not an adapter.
    """
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        return bytes_digest([canonical_json(config).encode(), *_tensor_bytes(directory / TENSOR_FILE)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{directory}: not a readable adapter: {error}; make the update again") from error


def _tensor_bytes(path: Path) -> Iterator[bytes]:
    """Yield per tensor in the order of names its description and its bytes, read from the file's own header."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        begin, end = entry["data_offsets"]
        if start + end > len(content):
            raise ValueError(f"{path.name} is cut short")
        yield canonical_json([name, entry["dtype"], entry["shape"]]).encode()
        yield content[start + begin : start + end]
