"""Engine sections: which program samples messages, and from which model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section


class ModelSection(Section):
    """What every engine of a model says of it. The trainer loads the same model in the same way."""

    model: str = "embedded"
    """"embedded" (SmolLM2-135M-Instruct from its package), a local directory, or a hub name."""
    revision: str | None = None
    """Commit or tag of a hub name."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto": bfloat16 where the processor multiplies it natively, else float32. What it resolves to is in the key."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(2, ge=1)
    """Fixed, because a sum's order is part of its result."""


class TransformersEngineConfig(ModelSection):
    """The embedded engine: any causal model that transformers can load, on CPU or one GPU."""

    kind: Literal["transformers"] = "transformers"
    max_batch_tokens: int = Field(16384, ge=256)
    """Prompt and new tokens held at once while sampling."""


class VllmEngineConfig(ModelSection):
    """vLLM in this process: for GPUs (and CPUs, with its CPU build). Needs the `vllm` extra."""

    kind: Literal["vllm"] = "vllm"
    max_model_len: int | None = Field(None, ge=16)
    """Tokens of a prompt and its message together, at most; None: the model's own window."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 512] = 16
    """Adapters of a higher rank are refused; memory is set aside for this."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of a GPU's memory that weights and cache may take."""
    cpu_cache_gib: int = Field(2, ge=1)
    """GiB of key-value cache where there is no GPU."""
    enforce_eager: bool = False
    """Skip compilation and CUDA graphs: starts sooner, samples more slowly."""
    memory_policy: Literal["shutdown", "sleep", "stay"] = "shutdown"
    """What frees the memory for the trainer: end vLLM (it starts again when next needed), let it sleep (a GPU only;
    quicker to wake, needs host memory for the weights), or nothing, where there is room for both."""
    engine_check: bool = True
    """Before the first message under a policy version, compare the engine's log-probs with the trainer's on a few fixed
    prompts; a gap past update.max_logprob_mismatch stops the round. Loads the trainer's model."""


class VllmServerEngineConfig(ModelSection):
    """One or many vLLM servers, OpenAI's protocol. `model`, `dtype` and `device` are what codec and trainer load here.

    Servers need --enable-lora --logprobs-mode processed_logprobs, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in their
    environment, and the store under the path it has here.
    """

    kind: Literal["vllm_server"] = "vllm_server"
    urls: tuple[str, ...] = Field(min_length=1)
    """Of each server, as in "http://gpu-1:8000". Messages are spread over them."""
    served_model: str | None = None
    """The name under which the servers offer the model; None: what `model` says (for a local one its directory)."""
    concurrency: int = Field(64, ge=1)
    """Messages in flight per server."""
    timeout_seconds: float = Field(300.0, gt=0)
    """A message that takes longer is asked for again."""
    max_attempts: int = Field(5, ge=1)
    """How often one message is asked for at most, with growing pauses, on another server where there is one."""
    initial_backoff_seconds: float = Field(1.0, ge=0)
    """The pause before the second attempt; it doubles from one to the next."""
    engine_check: bool = True
    """Before the first message under a policy version, compare the servers' log-probs with the trainer's on a few fixed
    prompts; a gap past update.max_logprob_mismatch stops the round. Loads the trainer's model."""


class ScriptedEngineConfig(Section):
    """A tabular world: every message is one word, every policy a softmax table whose Q and V can be enumerated."""

    kind: Literal["scripted"] = "scripted"
    words: tuple[str, ...] = Field(("ant", "bee", "cat"), min_length=1)
    """What each role can say."""
    world_seed: int = 0
    """Fixes the untrained policy's logits."""
    spread: float = Field(1.0, ge=0)
    """Standard deviation of those logits. 0: every word equally likely."""


ModelEngineConfig = TransformersEngineConfig | VllmEngineConfig | VllmServerEngineConfig
"""Engines of a language model: what they sample from can be trained."""


EngineConfig = Annotated[ModelEngineConfig | ScriptedEngineConfig, Field(discriminator="kind")]
