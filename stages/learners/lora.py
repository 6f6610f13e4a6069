"""The LoRA learner: one PEFT adapter per policy on a frozen base model.

    log pi(a_t | h, a_<t) = log_softmax(logits(h, a_<t) / temperature)[a_t]

Adapters are float32 whatever the base is in. Three layouts of the same computation: "packed" (one trie of tokens,
packing.py), "padded" (a plain batch) and "single" (one sequence at a time, which the others are tested against).

Axes: A rows, T nodes of a trie, L places of a padded row, N sampled tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.errors import UpdateError
from configs.schema import PolicyConfig
from stages.engines.hardware import resolved_device, resolved_dtype
from stages.engines.transformers import load_model
from stages.learners.adapter_files import TENSOR_FILE, adapter_config, write_adapter
from stages.learners.packing import pack, packed_batches, padded_batches
from stages.learners.protocol import TrainRow
from store.identity import seed_from
from store.policies import PolicyVersion

Layout = Literal["packed", "padded", "single"]


class LoraLearner:
    """Trains adapters on a Hugging Face causal model. Implements Learner.

    Raises UpdateError when a policy's target modules are not in the model, or the model cannot be packed.
    """

    def __init__(
        self,
        model_dir: Path,
        dtype: str,
        threads: int,
        policies: Mapping[str, PolicyConfig],
        layout: Layout = "packed",
        device: str = "cpu",
        base_name: str = "base",
    ) -> None:
        torch.set_num_threads(threads)
        model = load_model(
            model_dir, getattr(torch, resolved_dtype(dtype, device)), torch.device(resolved_device(device))
        )
        self._start(model, policies, layout, threads, base_name)

    @classmethod
    def of_model(
        cls, model: Any, policies: Mapping[str, PolicyConfig], layout: Layout = "packed", threads: int = 1
    ) -> LoraLearner:
        """A learner over a model already in memory, which it takes for itself."""
        learner = cls.__new__(cls)
        learner._start(model, policies, layout, threads, "base")
        return learner

    def _start(
        self, model: Any, policies: Mapping[str, PolicyConfig], layout: Layout, threads: int, base_name: str
    ) -> None:
        self._policies, self._layout, self._threads = dict(policies), layout, threads
        self._base_name = base_name  # neutral, not a path: it is written into the adapter
        self._device = next(model.parameters()).device
        model.requires_grad_(False)
        self._transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
        self._window = _attention_window(model.config.get_text_config())
        self._adapter_of = {name: f"policy{index}" for index, name in enumerate(self._policies)}
        self._model = self._with_adapters(model)
        if layout == "packed":
            self._check_packing()

    def load(self, policy: PolicyVersion, seed: int) -> None:
        """Take over the version's adapters; a policy without one starts at A uniform by the seed, B zero.

        Raises UpdateError when a stored adapter has another shape than the configuration asks for.
        """
        torch.manual_seed(seed % 2**32)  # only dropout draws from it
        for name in self._policies:
            adapter = policy.adapters.get(name)
            if adapter is None or adapter.directory is None:
                self._initialise(name, seed)
            else:
                self._restore(name, adapter.directory)

    def prepare(self, rows: Sequence[TrainRow]) -> None:
        """Nothing: the parameters do not depend on the rows."""

    def named_parameters(self, policy: str) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """The A and B matrices (float32) of one policy by PEFT's names, sorted."""
        mark = f".{self._adapter_of[policy]}."
        found = ((name, parameter) for name, parameter in self._model.named_parameters() if mark in name)
        return sorted((name.replace(mark, "."), parameter) for name, parameter in found)

    def batches(self, rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
        """Micro-batches of at most `max_tokens` tokens as this layout counts them; rows of one context together."""
        if self._layout == "single":
            return [[row] for row in rows]
        return (packed_batches if self._layout == "packed" else padded_batches)(rows, max_tokens)

    def logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Per row [T] natural log-probs of its sampled tokens at its temperature, float32, differentiable.

        The rows are of one policy. UpdateError when they are of several, or longer than a packed model can see.
        """
        if len({row.policy for row in rows}) > 1:
            raise UpdateError("learner: rows of several policies in one micro-batch; give one policy's rows at a time")
        if not rows:
            return []
        torch.set_num_threads(self._threads)  # another library may have changed it, and a sum's order with it
        self._activate(rows[0].policy)
        if self._layout == "packed":
            return self._packed(rows)
        if self._layout == "padded":
            return self._padded(rows)
        return [logprob_T for row in rows for logprob_T in self._padded([row])]

    def save(self, directory: Path) -> dict[str, Path]:
        """Write each policy's adapter below `directory`; equal weights are equal bytes."""
        folders = {}
        for name, policy in self._policies.items():
            folders[name] = directory / name
            tensors = {key: parameter.detach().cpu().numpy() for key, parameter in self.named_parameters(name)}
            write_adapter(folders[name], adapter_config(policy, self._base_name, self._transposed), tensors)
        return folders

    def _packed(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        packed = pack(rows)
        depth = int(packed.position_T.max()) + 1
        if self._window is not None and depth > self._window:
            raise UpdateError(
                f"learner: a row of {depth} tokens is past this model's attention window of {self._window}, which a "
                f'packed batch cannot show; set update.layout = "padded"'
            )
        place_N = np.concatenate(packed.predicting)
        # alternatives share the node that predicts their first token: its logits are made once
        needed_K, where_N = np.unique(place_N, return_inverse=True)
        logits_KV = self._model(
            input_ids=self._tensor(packed.token_T)[None],
            position_ids=self._tensor(packed.position_T)[None],
            attention_mask=self._tensor(packed.mask_TT)[None, None],
            logits_to_keep=self._tensor(needed_K),
            use_cache=False,
        ).logits[0]
        return _split(_spoken(logits_KV, self._tensor(where_N), rows), rows)

    def _padded(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        seen = [row.context_ids + row.token_ids[:-1] for row in rows]
        longest = max(map(len, seen))
        token_AL = np.zeros((len(rows), longest), dtype=np.int64)
        real_AL = np.zeros((len(rows), longest), dtype=np.int64)
        for index, tokens in enumerate(seen):
            token_AL[index, : len(tokens)], real_AL[index, : len(tokens)] = tokens, 1
        kept = longest - min(len(row.context_ids) for row in rows) + 1
        logits_AKV = self._model(
            input_ids=self._tensor(token_AL),
            attention_mask=self._tensor(real_AL) if len(rows) > 1 else None,
            logits_to_keep=kept,
            use_cache=False,
        ).logits
        first = longest - kept  # the place that the first kept logits stand at
        where_N = np.concatenate(
            [
                index * kept + len(row.context_ids) - 1 - first + np.arange(len(row.token_ids))
                for index, row in enumerate(rows)
            ]
        )
        return _split(_spoken(logits_AKV.flatten(0, 1), self._tensor(where_N), rows), rows)

    def _tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _activate(self, policy: str) -> None:
        self._model.set_adapter(self._adapter_of[policy])
        for _, parameter in self.named_parameters(policy):
            parameter.requires_grad_(True)  # PEFT freezes the adapters that are not active
        self._model.train(torch.is_grad_enabled() and self._policies[policy].lora_dropout > 0)

    def _with_adapters(self, model: Any) -> Any:
        wrapped: PeftModel | None = None
        for name, policy in self._policies.items():
            targets = sorted(set(policy.target_modules))
            config = LoraConfig(
                r=policy.lora_rank,
                lora_alpha=policy.lora_alpha,
                lora_dropout=policy.lora_dropout,
                target_modules=targets if targets != ["all-linear"] else "all-linear",
                fan_in_fan_out=self._transposed,
                task_type="CAUSAL_LM",
            )
            try:
                if wrapped is None:
                    wrapped = get_peft_model(model, config, adapter_name=self._adapter_of[name])
                else:
                    wrapped.add_adapter(self._adapter_of[name], config)
            except ValueError as error:
                raise UpdateError(
                    f"policies.{name}.target_modules: {', '.join(targets)}: {error}; name linear layers of this model"
                ) from error
        assert wrapped is not None, "a team has at least one policy"
        return wrapped.eval()

    @torch.no_grad()
    def _initialise(self, policy: str, seed: int) -> None:
        """PEFT's default: A uniform within 1/sqrt(inputs), B zero; by name, so that no order of making matters."""
        for name, parameter in self.named_parameters(policy):
            parameter.zero_()
            if ".lora_A." in name:
                generator = torch.Generator().manual_seed(seed_from("adapter", seed, policy, name))
                drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.copy_((2 * drawn - 1) / parameter.shape[1] ** 0.5)

    @torch.no_grad()
    def _restore(self, policy: str, directory: Path) -> None:
        try:
            stored = load_file(directory / TENSOR_FILE)
        except (OSError, SafetensorError) as error:
            raise UpdateError(f"adapter {directory}: not readable: {error}; make the update before it again") from error
        wanted = dict(self.named_parameters(policy))
        shapes = {name: tuple(parameter.shape) for name, parameter in wanted.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in stored.items()}:
            raise UpdateError(
                f"policies.{policy}: the stored adapter {directory} has other modules or another rank than configured; "
                f"lora_rank and target_modules cannot change during a run: start another with --run NAME"
            )
        for name, parameter in wanted.items():
            parameter.copy_(stored[name])

    @torch.no_grad()
    def _check_packing(self) -> None:
        """Refuse a model that looks at the order in memory (ALiBi, recurrences) instead of positions and mask."""
        policy = next(iter(self._policies))
        rows = [TrainRow("probe", policy, context, tokens, 1.0) for context, tokens in _PROBE]
        self._activate(policy)
        packed = torch.cat(self._packed(rows))
        alone = torch.cat([logprob_T for row in rows for logprob_T in self._padded([row])])
        half = next(self._model.parameters()).dtype != torch.float32
        if not torch.allclose(packed, alone, atol=0.3 if half else 1e-3, rtol=0.02):
            raise UpdateError(
                "learner: this model's log-probs change when rows are packed, so it does not read position ids and "
                'masks alone; set update.layout = "padded"'
            )


_PROBE = (((1, 2, 3, 4), (5, 6, 7, 8)), ((1, 2, 3, 4), (6, 5, 8)), ((1, 9, 4), (7, 7, 3, 2)))


def _spoken(logits_KV: torch.Tensor, where_N: torch.Tensor, rows: Sequence[TrainRow]) -> torch.Tensor:
    """Log-probs [N] of all rows' tokens, end to end; `where_N` is the row of logits that predicts each."""
    token_N = torch.tensor([token for row in rows for token in row.token_ids], device=logits_KV.device)
    temperatures = [row.temperature for row in rows for _ in row.token_ids]
    logits_KV = logits_KV.float()
    if len(set(temperatures)) == 1:  # the usual case: one normaliser per place, however many tokens it predicts
        logits_KV = logits_KV / temperatures[0] if temperatures[0] != 1.0 else logits_KV
        return logits_KV[where_N, token_N] - logits_KV.logsumexp(-1)[where_N]
    logits_NV = logits_KV[where_N] / torch.tensor(temperatures, device=logits_KV.device)[:, None]
    return logits_NV.gather(-1, token_N[:, None])[:, 0] - logits_NV.logsumexp(-1)


def _split(logprob_N: torch.Tensor, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
    return list(logprob_N.split([len(row.token_ids) for row in rows]))


def _attention_window(config: Any) -> int | None:
    """Tokens that a layer with a sliding window sees; None where every layer sees all."""
    kinds = getattr(config, "layer_types", None)
    sliding = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return getattr(config, "sliding_window", None) if sliding else None
