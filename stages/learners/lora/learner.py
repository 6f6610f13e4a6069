"""The LoRA learner: one PEFT adapter per policy on a frozen base model.

    log pi = log-probs of the base with W + (alpha / r) B A in place of each target's W

Adapters are float32 whatever the base is in. The reference is the base with no adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from configs.errors import UpdateError
from configs.training import PolicyConfig
from stages.learners.lora.kernels import fuse_lora
from stages.learners.protocol import HiddenStates, Scored, TrainRow, one_policy
from stages.learners.scoring.causal import CausalScorer, Layout
from stages.models.adapter_files import TENSOR_FILE, adapter_config, write_adapter
from store.artifacts.policy_version import PolicyVersion
from store.disk.ids import seed_from


class LoraLearner:
    """Trains adapters on a Hugging Face causal model. Implements Learner.

    Raises UpdateError when a policy's target modules are not in the model, or the model cannot be packed.
    """

    def __init__(
        self,
        model: Any,
        policies: Mapping[str, PolicyConfig],
        layout: Layout = "packed",
        threads: int = 1,
        checkpointing: bool = False,
        base_name: str = "base",
    ) -> None:
        """Train adapters on a loaded model, which the learner takes for itself."""
        self._policies, self._threads = dict(policies), threads
        self._base_name = base_name  # neutral, not a path: it is written into the adapter
        model.requires_grad_(False)
        self._transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
        self._adapter_of = {name: f"policy{index}" for index, name in enumerate(self._policies)}
        self._model = self._with_adapters(model)
        fuse_lora(self._model)
        self._parameters = {name: self._found(name) for name in self._policies}
        self._active: str | None = None
        self._scorer = CausalScorer(self._model, model, layout, checkpointing)
        if layout == "packed":
            first = next(iter(self._policies))
            self._activate(first)
            self._scorer.check_packing(first)

    def load(self, policy: PolicyVersion, seed: int) -> None:
        """Take over the version's adapters; a policy without one starts at A uniform by the seed, B zero.

        Raises UpdateError when a stored adapter has another shape than the configuration asks for.
        """
        torch.manual_seed(seed % 2**32)  # only dropout draws from it
        for name in self._policies:
            adapter = policy.adapters.get(name)
            for _, parameter in self._parameters[name]:
                parameter.grad = None
            if adapter is None or adapter.directory is None:
                self._initialise(name, seed)
            else:
                self._restore(name, adapter.directory)

    def prepare(self, rows: Sequence[TrainRow]) -> None:
        """Do nothing: the parameters do not depend on the rows."""

    def named_parameters(self, policy: str) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Return the A and B matrices (float32) of one policy by PEFT's names, sorted."""
        return self._parameters[policy]

    def batches(self, rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
        """Return micro-batches of at most `max_tokens` tokens as this layout counts them; rows of one context together."""
        return self._scorer.batches(rows, max_tokens)

    def score(self, rows: Sequence[TrainRow]) -> list[Scored]:
        """Return, per row, log-probs and entropies [T] of its sampled tokens at its temperature, float32, differentiable.

        The rows are of one policy. UpdateError when they are of several, or longer than a packed model can see.
        """
        if not rows:
            return []
        torch.set_num_threads(self._threads)  # another library may have changed it, and a sum's order with it
        self._activate(one_policy(rows))
        return self._scorer.score(rows)

    def logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Return the log-probs alone."""
        return [scored.logprob_T for scored in self.score(rows)]

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Return, per row, [T] under the base model without adapters; no gradient."""
        if not rows:
            return []
        torch.set_num_threads(self._threads)
        with torch.no_grad(), self._model.disable_adapter():
            found = [scored.logprob_T for scored in self._scorer.score(rows)]
        self._active = None  # PEFT has switched the adapters off and on
        return found

    def read(self, rows: Sequence[TrainRow]) -> list[HiddenStates]:
        """Return, per row, (of one policy) the hidden states [D] of the base with that policy's adapter; no gradient."""
        if not rows:
            return []
        torch.set_num_threads(self._threads)
        with torch.no_grad():
            self._activate(one_policy(rows))
            return self._scorer.read(rows)

    def save(self, directory: Path) -> dict[str, Path]:
        """Write each policy's adapter below `directory`; equal weights are equal bytes."""
        folders = {}
        for name, policy in self._policies.items():
            folders[name] = directory / name
            tensors = {key: parameter.detach().cpu().numpy() for key, parameter in self.named_parameters(name)}
            write_adapter(folders[name], adapter_config(policy, self._base_name, self._transposed), tensors)
        return folders

    def _found(self, policy: str) -> list[tuple[str, torch.nn.Parameter]]:
        mark = f".{self._adapter_of[policy]}."
        found = ((name, parameter) for name, parameter in self._model.named_parameters() if mark in name)
        return sorted((name.replace(mark, "."), parameter) for name, parameter in found)

    def _activate(self, policy: str) -> None:
        if self._active != policy:
            self._model.set_adapter(self._adapter_of[policy])
            for _, parameter in self.named_parameters(policy):
                parameter.requires_grad_(True)  # PEFT freezes the adapters that are not active
            self._active = policy
        if self._policies[policy].lora_dropout > 0:
            for name, module in self._model.named_modules():
                if ".lora_dropout." in name:
                    module.training = torch.is_grad_enabled()

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
