"""Engine sections: which program samples messages, and from which model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from configs.section import Section
from configs.training import PolicyConfig


class EngineSection(Section):
    """What the rest of C3 asks of an engine's section: its traits. A new engine states its own."""

    is_world: ClassVar[bool] = False
    """Whether it is a scripted world: tables stand for weights, and there are no model files, devices or dtypes."""
    supports_full_weights: ClassVar[bool] = False
    """Whether it can sample from policies that are whole models."""
    shares_arithmetic: ClassVar[bool] = False
    """Whether it samples in this process by the trainer's own library and files, so that both can stay loaded."""
    has_servers: ClassVar[bool] = False
    """Whether it asks servers, which are the same for all workers."""

    @property
    def is_checked(self) -> bool:
        """Whether its log-probs are compared with the trainer's before the first message under a policy version."""
        return False

    def check_policies(self, policies: Mapping[str, PolicyConfig]) -> None:
        """Raise ValueError when the engine cannot serve these policies. By default it can serve any adapter."""
        if not self.supports_full_weights and any(policy.weights == "full" for policy in policies.values()):
            raise ValueError(
                f'policies: weights = "full" needs the transformers engine; {self.name} samples from adapters'
            )

    @property
    def name(self) -> str:
        """What `engine.kind` calls it."""
        return str(getattr(self, "kind", ""))

    def apart(self, max_attempts: int) -> list[tuple[str, Self]]:
        """Return what of the engine can fail alone, by name: the engine, or each of its servers, asked so often at most."""
        return [(f"engine {self.name}", self)]


class ModelSection(EngineSection):
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

    supports_full_weights: ClassVar[bool] = True
    shares_arithmetic: ClassVar[bool] = True
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

    @property
    def is_checked(self) -> bool:
        """Whether engine.engine_check asks for it."""
        return self.engine_check

    def check_policies(self, policies: Mapping[str, PolicyConfig]) -> None:
        """Raise ValueError when a policy's adapter is of a higher rank than vLLM sets memory aside for."""
        super().check_policies(policies)
        for name, policy in policies.items():
            if policy.lora_rank > self.max_lora_rank:
                raise ValueError(
                    f"policies.{name}.lora_rank: {policy.lora_rank}, but engine.max_lora_rank is {self.max_lora_rank}; raise "
                    f"that, or lower the rank"
                )


class VllmServerEngineConfig(ModelSection):
    """One or many vLLM servers, OpenAI's protocol. `model`, `dtype` and `device` are what codec and trainer load here.

    Servers need --enable-lora --logprobs-mode processed_logprobs, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in their
    environment, and the store under the path it has here.
    """

    has_servers: ClassVar[bool] = True
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

    @property
    def is_checked(self) -> bool:
        """Whether engine.engine_check asks for it."""
        return self.engine_check

    def apart(self, max_attempts: int) -> list[tuple[str, Self]]:
        """Return each server as an engine of its own."""
        alone = {"max_attempts": max_attempts}
        return [(f"server {url}", self.model_copy(update={**alone, "urls": (url,)})) for url in self.urls]


class ScriptedEngineConfig(EngineSection):
    """A tabular world: every message is one word, every policy a softmax table whose Q and V can be enumerated."""

    is_world: ClassVar[bool] = True
    shares_arithmetic: ClassVar[bool] = True
    dtype: ClassVar[Literal["float32"]] = "float32"
    device: ClassVar[Literal["cpu"]] = "cpu"
    threads: ClassVar[int] = 1
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
