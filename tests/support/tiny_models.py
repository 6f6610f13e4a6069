"""Random models of a few thousand weights, float32: real architectures whose every number can be compared."""

from __future__ import annotations

import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from stages.models.grouped_attention import GROUPED_ATTENTION

VOCABULARY = 48
END = 47
WINDOW = 96

TARGETS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_fc"),
    "gpt_neox": ("query_key_value", "dense"),
}
FAMILIES = tuple(TARGETS)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.: {}"
"""The words of a model that is written with a tokenizer."""


def tiny_model(family: str = "llama") -> Any:
    """A fresh copy. Llama: two query heads per key head; GPT-2: learned positions; NeoX: half of a head rotates."""
    return copy.deepcopy(_model(family))


@lru_cache
def _model(family: str) -> Any:
    special = {"bos_token_id": None, "eos_token_id": END, "vocab_size": VOCABULARY, "initializer_range": 0.3}
    configs = {
        "llama": LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=WINDOW,
            pad_token_id=0,
            **special,
        ),
        "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=WINDOW, **special),
        "gpt_neox": GPTNeoXConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=WINDOW,
            **special,
        ),
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[family], attn_implementation="sdpa")
    model.set_attn_implementation(GROUPED_ATTENTION)
    return model.eval()


def logprobs_alone(model: Any, context: tuple[int, ...], tokens: tuple[int, ...], temperature: float) -> torch.Tensor:
    """[T] log-probs of one message by one plain forward pass: what everything faster is compared with."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([context + tokens])).logits[0] / temperature
    place_T = torch.arange(len(tokens)) + len(context) - 1
    return logits_TV.log_softmax(-1)[place_T, torch.tensor(tokens)]


def write_tiny_model(folder: Path, family: str = "llama") -> Path:
    """The model as a directory that an engine and a learner can be made of, its tokens letters; the directory."""
    tiny_model(family).save_pretrained(folder)
    letters = {"<unk>": 0, **{letter: 1 + index for index, letter in enumerate(LETTERS)}, "</s>": END}
    tokenizer = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "</s>", "chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
