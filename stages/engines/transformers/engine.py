"""The embedded engine: any causal model that transformers can load, on a CPU or one GPU.

Its own decode loop, because rollouts share so much: what all prompts begin with is prefilled once, each prompt's rest
once for all its seeds, logits are made for last positions only, and finished messages leave the batch.

Axes: U unique prompts, R tokens of the longest rest, B rows (messages in the making), V vocabulary, T tokens.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from configs.engines import TransformersEngineConfig
from configs.errors import EngineError
from stages.engines.adapters import adapter_of
from stages.engines.protocol import Completion, Request, SamplingParameters
from stages.engines.transformers.batching import Batch, Prompt, Row, common_prefix, cut, groups
from stages.engines.transformers.kv_cache import preallocate
from stages.engines.transformers.token_sampling import draw, uniforms
from stages.models.chat_codec import ChatCodec
from stages.models.loading import load_model
from stages.models.lora_merge import MergedWeights
from stages.models.protocol import Codec
from stages.runtime.device import resolved_device, resolved_dtype
from store.artifacts.policy_version import PolicyVersion

_KEEP_SHARE = 0.75
"""Rows are copied together when fewer than this share still write: copying the cache costs about half a step."""


def load_engine(config: TransformersEngineConfig, model_dir: Path) -> TransformersEngine:
    """Return the engine of a model directory. EngineError when the model cannot be loaded, or CUDA is missing."""
    torch.set_num_threads(config.threads)
    device = torch.device(resolved_device(config.device))
    codec = ChatCodec(model_dir)
    model = load_model(model_dir, getattr(torch, resolved_dtype(config.dtype, config.device)), device)
    return TransformersEngine(model, codec.end_token_ids, codec, config.threads, config.max_batch_tokens)


class TransformersEngine:
    """Sample messages with a Hugging Face model. Implements Engine."""

    codec: Codec

    def __init__(
        self,
        model: Any,
        end_token_ids: Iterable[int],
        codec: Codec | None = None,
        threads: int = 1,
        max_batch_tokens: int = 4096,
    ) -> None:
        """Sample from a loaded causal model. `codec`: None for models too small to have a tokenizer."""
        if codec is not None:
            self.codec = codec
        self._threads, self._max_batch_tokens = threads, max_batch_tokens
        self._device = next(model.parameters()).device
        self._model = model.eval().requires_grad_(False)
        self._window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._end = torch.tensor(sorted(set(end_token_ids)), device=self._device)
        self._weights = MergedWeights(model)
        self._policy: PolicyVersion | None = None
        self._turn = threading.RLock()  # parts may be made side by side, but there is one set of weights to show

    def use(self, policy: PolicyVersion) -> None:
        """Sample from these weights. EngineError when an adapter is unreadable or was trained on another model."""
        with self._turn:
            for name in sorted(policy.adapters):
                self._weights.show(policy.adapters[name])
            self._policy = policy

    def generate(
        self, requests: Sequence[Request], on_message: Callable[[int], None] = lambda count: None
    ) -> list[list[Completion]]:
        """Return one list per request, one completion per seed; a function of the requests of this call. One call at a time.

        Raises EngineError for an empty prompt, or one that leaves no room for its new tokens in the window.
        """
        with self._turn:
            return self._generate(requests, on_message)

    def _generate(self, requests: Sequence[Request], on_message: Callable[[int], None]) -> list[list[Completion]]:
        if self._policy is None:
            raise EngineError("transformers engine: no policy version in use; call use() first")
        for request in requests:
            self._check(request)
        torch.set_num_threads(self._threads)  # another library may have changed it, and a sum's order with it
        answers: list[dict[int, Completion]] = [{} for _ in requests]
        for (policy, sampling), indices in groups(requests).items():
            self._weights.show(adapter_of(policy, self._policy.adapters))
            shared = common_prefix([requests[index].prompt_ids for index in indices])
            prefix = self._prefill_prefix(requests[indices[0]].prompt_ids[:shared])
            for batch in cut(requests, indices, sampling.max_new_tokens, self._max_batch_tokens):
                for row, completion in self._complete(batch, shared, prefix, sampling, on_message):
                    answers[row.request][row.place] = completion
        return [[found[place] for place in range(len(found))] for found in answers]

    def check_adapters_allowed(self) -> None:
        """Do nothing: what is trained here can be sampled from here."""

    def release_memory(self) -> None:
        """Do nothing: a model that fits with its trainer stays."""

    def close(self) -> None:
        """Give the memory back."""
        self._policy = None
        self._model = self._weights = None  # type: ignore[assignment]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _check(self, request: Request) -> None:
        prompt, new = len(request.prompt_ids), request.sampling.max_new_tokens
        if not prompt or new < 1:
            raise EngineError(f"transformers engine: {prompt} prompt and {new} new tokens; 1 of each is the least")
        if self._window is not None and prompt + new > self._window:
            raise EngineError(
                f"transformers engine: a prompt of {prompt} tokens and {new} new ones are {prompt + new}, past the "
                f"model's window of {self._window}; shorten the prompts or lower max_new_tokens"
            )

    @torch.inference_mode()
    def _prefill_prefix(self, prefix: Prompt) -> DynamicCache:
        """Return the cache of the tokens that all prompts begin with, one row."""
        cache = DynamicCache(config=self._model.config)
        if prefix:
            token_1T = torch.tensor([prefix], device=self._device)
            self._model(input_ids=token_1T, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    @torch.inference_mode()
    def _complete(
        self,
        batch: Batch,
        shared: int,
        prefix: DynamicCache,
        sampling: SamplingParameters,
        on_message: Callable[[int], None],
    ) -> list[tuple[Row, Completion]]:
        """Prefill the batch's prompts and write all its messages."""
        logits_UV, cache, seen_US = self._prefill_rests(batch.prompts, shared, prefix)
        prompt_of_row = [index for index, rows in enumerate(batch.rows) for _ in rows]
        row_B = torch.tensor(prompt_of_row, device=self._device)
        rows = [row for group in batch.rows for row in group]
        writing = _Writing(rows, sampling, self._end, on_message)
        cache = preallocate(cache, row_B, sampling.max_new_tokens)
        logits_BV, seen_BS = logits_UV[row_B], seen_US[row_B]
        position_B = torch.tensor([len(batch.prompts[index]) for index in prompt_of_row], device=self._device)
        while True:
            token_B = writing.write(logits_BV)
            if not writing.live:
                return writing.finished()
            kept_B = writing.compact()
            if kept_B is not None:
                cache = preallocate(cache, kept_B, sampling.max_new_tokens - writing.length)
                token_B, seen_BS, position_B = token_B[kept_B], seen_BS[kept_B], position_B[kept_B]
            seen_BS = torch.cat([seen_BS, seen_BS.new_ones((len(seen_BS), 1))], dim=1)
            logits_BV = self._model(
                input_ids=token_B[:, None],
                attention_mask=seen_BS,
                position_ids=position_B[:, None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            position_B = position_B + 1

    def _prefill_rests(
        self, prompts: Sequence[Prompt], shared: int, prefix: DynamicCache
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Return logits [U, V] after each prompt, the cache of all of them, and which cache slots are real [U, S]."""
        rests = [prompt[shared:] for prompt in prompts]
        longest = max(map(len, rests))
        token_UR = torch.zeros((len(rests), longest), dtype=torch.long)
        seen_US = torch.ones((len(rests), shared + longest), dtype=torch.long)
        for index, rest in enumerate(rests):  # padded on the left, so that every row's last token is its last place
            token_UR[index, longest - len(rest) :] = torch.tensor(rest)
            seen_US[index, shared : shared + longest - len(rest)] = 0
        position_UR = (seen_US.cumsum(1) - 1).clamp(min=0)[:, shared:]
        cache = copy.deepcopy(prefix)
        if shared:
            cache.reorder_cache(torch.zeros(len(rests), dtype=torch.long, device=self._device))  # type: ignore[arg-type]
        logits_UV = self._model(
            input_ids=token_UR.to(self._device),
            attention_mask=seen_US.to(self._device),
            position_ids=position_UR.to(self._device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits_UV, cache, seen_US.to(self._device)


class _Writing:
    """The messages of a batch as they grow: tokens, log-probs, and which rows still write."""

    def __init__(
        self,
        rows: Sequence[Row],
        sampling: SamplingParameters,
        end: torch.Tensor,
        told: Callable[[int], None],
    ) -> None:
        self._rows, self._sampling, self._end, self._told = rows, sampling, end, told
        self._tokens: list[list[int]] = [[] for _ in rows]
        self._logprobs: list[list[float]] = [[] for _ in rows]
        self._stopped = [False] * len(rows)
        uniform_BT = np.stack([uniforms(row.seed, sampling.max_new_tokens) for row in rows])
        self._uniform_BT = torch.from_numpy(uniform_BT).to(end.device)
        self._in_batch = list(range(len(rows)))
        self.length = 0
        self.live = len(rows)
        """Rows that still write."""

    def write(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Draw every row's next token [B]; rows that have ended are drawn too and not kept."""
        token_B, logprob_B = draw(logits_BV, self._uniform_BT[:, self.length], self._sampling)
        ended = torch.isin(token_B, self._end).tolist()
        self.length += 1
        before = self.live
        for row, token, logprob, end in zip(self._in_batch, token_B.tolist(), logprob_B.tolist(), ended, strict=True):
            if not self._stopped[row]:
                self._tokens[row].append(token)
                self._logprobs[row].append(logprob)
                self._stopped[row] = end
                self.live -= end
        if self.length == self._sampling.max_new_tokens:
            self.live = 0
        if before > self.live:
            self._told(before - self.live)
        return token_B

    def compact(self) -> torch.Tensor | None:
        """Return the places of the rows to go on with, [B], when enough have ended to be worth the copying; else None."""
        if self.live > _KEEP_SHARE * len(self._in_batch):
            return None
        places = [place for place, row in enumerate(self._in_batch) if not self._stopped[row]]
        self._in_batch = [self._in_batch[place] for place in places]
        kept_B = torch.tensor(places, device=self._end.device)
        self._uniform_BT = self._uniform_BT[kept_B]
        return kept_B

    def finished(self) -> list[tuple[Row, Completion]]:
        """Return every row with its message."""
        return [
            (row, Completion(tuple(tokens), tuple(logprobs), "stop" if stopped else "length"))
            for row, tokens, logprobs, stopped in zip(
                self._rows, self._tokens, self._logprobs, self._stopped, strict=True
            )
        ]
