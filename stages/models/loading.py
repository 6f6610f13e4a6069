"""Load a causal language model as engines and learners both use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from configs.errors import EngineError
from stages.models.grouped_attention import GROUPED_ATTENTION
from stages.runtime.determinism import configure_cuda
from stages.runtime.quiet import no_bars


def load_model(model_dir: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Return the model, its weights in `dtype` on `device`, with the attention that reads shared heads where they lie."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError('engine.device: a GPU is present but this torch cannot use it; set engine.device = "cpu"')
    if device.type == "cuda":
        configure_cuda()
    try:
        with no_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EngineError(f"engine.model: {model_dir} cannot be loaded as a causal model: {error}") from error
    if model._supports_attention_backend:
        model.set_attn_implementation(GROUPED_ATTENTION)
    return model.to(device)
