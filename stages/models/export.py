"""A policy as a plain model directory: its weights merged into the base, beside the base's own tokenizer.

What `transformers`, vLLM or llama.cpp's converter load without knowing of adapters.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoModelForCausalLM

from stages.models.lora_merge import MergedWeights
from stages.runtime.quiet import no_bars
from store.artifacts.policy_version import Adapter

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".index.json")
_OWN = ("config.json", "converted.json")
"""Written by transformers, and the embedded model's own mark."""


def write_plain_model(model_dir: Path, adapter: Adapter, target: Path) -> None:
    """Write the merged model, in the dtype the base is stored in, into an empty or new directory.

    Merging is in float32 and rounded once, as for sampling. EngineError when the adapter does not fit the model.
    """
    with no_bars():
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype="auto").requires_grad_(False)
    MergedWeights(model).show(adapter)
    model.config._name_or_path = ""
    with no_bars():
        model.save_pretrained(target)
    for file in sorted(model_dir.iterdir()):
        if file.is_file() and not file.name.endswith(_WEIGHTS) and file.name not in _OWN:
            shutil.copyfile(file, target / file.name)
