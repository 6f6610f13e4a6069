"""vLLM in this process: the engine for GPUs. The only file that imports vllm.

Token ids in and out, every message of a call in one batch, log-probs of what was sampled from. Adapters are applied
beside the weights, named after their content, loaded once, and removed when their policy version is no longer used.

vLLM draws a message from its own seed, but promises equal bytes only for equal batches: what is stored is reused as it
is, and what is missing is drawn with its seed.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from configs.engines import VllmEngineConfig
from configs.environment import prepare_vllm
from configs.errors import EngineError
from stages.engines.adapters import adapter_name, adapter_of
from stages.engines.protocol import Completion, Request, SamplingParameters
from stages.models.chat_codec import ChatCodec
from stages.models.lora_merge import read_adapter
from stages.models.protocol import Codec
from stages.runtime.child_processes import own_packages_first
from stages.runtime.device import resolved_device, resolved_dtype
from store.artifacts.policy_version import Adapter, PolicyVersion

_RESIDENT_ADAPTERS = 4
"""Adapters in one batch: roles whose parts are made side by side may each have one."""
_SEED_BITS = 63


class VllmEngine:
    """Samples messages with vLLM. Implements Engine. One call at a time.

    Raises EngineError when vLLM is not installed, or cannot load the model.
    """

    codec: Codec

    def __init__(self, config: VllmEngineConfig, model_dir: Path) -> None:
        device = resolved_device(config.device)
        if config.memory_policy == "sleep" and device != "cuda":
            raise EngineError('engine.memory_policy: only a GPU can sleep; set it to "shutdown" or "stay"')
        self._config, self._model_dir = config, model_dir
        codec = ChatCodec(model_dir)
        self.codec, self._end = codec, sorted(codec.end_token_ids)
        self._turn = threading.RLock()
        self._policy: PolicyVersion | None = None
        self._loaded: dict[str, Any] = {}
        self._numbers: dict[str, int] = {}
        self._asleep = False
        self._llm: Any = None
        self._start()

    def use(self, policy: PolicyVersion) -> None:
        """Sample from these weights; adapters that are not of this version are removed.

        Raises EngineError when an adapter is unreadable, of another model, or of a higher rank than configured.
        """
        with self._turn:
            if policy == self._policy:
                return
            self._wake()
            trained = {a.digest: a for a in policy.adapters.values() if a.directory is not None}
            for digest in self._loaded.keys() - trained.keys():
                self._llm.llm_engine.remove_lora(self._loaded.pop(digest).lora_int_id)
            for adapter in trained.values():
                self._load(adapter)
            self._policy = policy

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """Return one list per request, one completion per seed, all of them in one batch.

        Raises EngineError for an empty prompt, or one that leaves no room for its new tokens in the window.
        """
        with self._turn:
            if self._policy is None:
                raise EngineError("vllm engine: no policy version in use; call use() first")
            self._wake()
            for request in requests:
                self._check(request)
            answers = iter(self._answer(requests, on_message))
            return [[_completion(next(answers)) for _ in request.seeds] for request in requests]

    def check_adapters_allowed(self) -> None:
        """Do nothing: what is trained here can be sampled from here."""

    def release_memory(self) -> None:
        """Give the memory to the trainer, in the way `memory_policy` says."""
        with self._turn:
            if self._llm is None or self._asleep or self._config.memory_policy == "stay":
                return
            if self._config.memory_policy == "sleep":
                self._llm.sleep(level=1)
                self._asleep = True
            else:
                self._stop()

    def close(self) -> None:
        """End vLLM and its processes."""
        with self._turn:
            self._policy = None
            self._stop()

    def _start(self) -> None:
        config = self._config
        prepare_vllm(config.cpu_cache_gib, config.threads)
        try:
            from vllm import LLM
        except ImportError as error:
            raise EngineError(
                f"vllm engine: vLLM is not installed here ({error}); install the extra: pip install 'c3-credit[vllm]' "
                f"(on a machine without a GPU see docs/from-laptop-to-cluster.md), or set engine.kind"
            ) from error
        options: dict[str, Any] = {}
        if config.max_model_len is not None:
            options["max_model_len"] = config.max_model_len
        if resolved_device(config.device) == "cuda":
            options["gpu_memory_utilization"] = config.gpu_memory_utilization
        try:
            self._llm = own_packages_first()(LLM)(
                model=str(self._model_dir),
                skip_tokenizer_init=True,
                dtype=resolved_dtype(config.dtype, config.device),
                seed=0,
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",
                max_logprobs=1,
                enable_lora=True,
                max_lora_rank=config.max_lora_rank,
                max_loras=_RESIDENT_ADAPTERS,
                enforce_eager=config.enforce_eager,
                enable_sleep_mode=config.memory_policy == "sleep",
                disable_log_stats=True,
                worker_extension_cls="stages.engines.vllm.worker_extension.ExitWithParent",
                **options,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vllm engine: {self._model_dir} cannot be served: {_one_line(error)}") from error
        try:
            with _Refusals("vllm engine: its processes cannot watch for the end of this one"):
                self._llm.collective_rpc("exit_with_parent", args=(os.getpid(),))
        except EngineError:
            self._stop()
            raise
        self._window = int(self._llm.llm_engine.model_config.max_model_len)

    def _stop(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            self._loaded, self._asleep = {}, False
            gc.collect()

    def _wake(self) -> None:
        """Ready to sample, with the adapters of the policy version in use."""
        if self._asleep or self._llm is None:
            _return_trainers_memory()
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False
        if self._llm is None:
            self._start()
            policy, self._policy = self._policy, None
            if policy is not None:
                self.use(policy)

    def _load(self, adapter: Adapter) -> None:
        if adapter.digest in self._loaded or adapter.directory is None:
            return
        from vllm.lora.request import LoRARequest

        settings, _ = read_adapter(adapter.directory)
        if settings["r"] > self._config.max_lora_rank:
            raise EngineError(
                f"adapter {adapter.directory}: its rank is {settings['r']}, engine.max_lora_rank "
                f"{self._config.max_lora_rank}; raise that"
            )
        number = self._numbers.setdefault(adapter.digest, len(self._numbers) + 1)
        request = LoRARequest(adapter_name(adapter), number, str(adapter.directory.resolve()))
        with _Refusals(f"adapter {adapter.directory}: vLLM refuses it"):
            self._llm.llm_engine.add_lora(request)
        self._loaded[adapter.digest] = request

    def _check(self, request: Request) -> None:
        prompt, new = len(request.prompt_ids), request.sampling.max_new_tokens
        if not prompt or new < 1:
            raise EngineError(f"vllm engine: {prompt} prompt and {new} new tokens; 1 of each is the least")
        if prompt + new > self._window:
            raise EngineError(
                f"vllm engine: a prompt of {prompt} tokens and {new} new ones are {prompt + new}, past the window of "
                f"{self._window}; shorten the prompts, lower max_new_tokens or raise engine.max_model_len"
            )

    def _answer(self, requests: Sequence[Request], on_message: Callable[[int], None]) -> list[Any]:
        """Return vLLM's outputs, one per seed, in the order of the requests and their seeds."""
        assert self._policy is not None
        from vllm import SamplingParams

        prompts, parameters, adapters = [], [], []
        for request in requests:
            adapter = adapter_of(request.policy, self._policy.adapters)
            for seed in request.seeds:
                prompts.append({"prompt_token_ids": list(request.prompt_ids)})
                parameters.append(SamplingParams(**_sampling(request.sampling, seed, self._end)))
                adapters.append(self._loaded.get(adapter.digest))
        if not prompts:
            return []
        outputs: list[Any] = self._llm.generate(prompts, parameters, use_tqdm=False, lora_request=adapters)
        on_message(len(outputs))
        return outputs


def _sampling(sampling: SamplingParameters, seed: int, end_token_ids: Sequence[int]) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_new_tokens,
        "seed": seed % 2**_SEED_BITS,
        "stop_token_ids": list(end_token_ids),
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
    }


def _completion(output: Any) -> Completion:
    """Raise EngineError when vLLM gave up on a message."""
    [made] = output.outputs
    if made.finish_reason not in ("stop", "length"):
        raise EngineError(f"vllm engine: a message ended with '{made.finish_reason}'; run the same command again")
    logprobs = tuple(float(at[token].logprob) for token, at in zip(made.token_ids, made.logprobs, strict=True))
    return Completion(tuple(made.token_ids), logprobs, made.finish_reason)


class _Refusals:
    """Turns what vLLM's process reports into an EngineError. It comes as a bare Exception, whatever it was over there."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is Exception and error is not None:  # that class itself: anything more specific is a fault of this side
            raise EngineError(f"{self._what}: {_one_line(error)}") from error


def _return_trainers_memory() -> None:
    """torch keeps what a trainer in this process had of a GPU, and vLLM's process could not have it."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
