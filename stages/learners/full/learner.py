"""The full learner: every weight of the model is trained. For small models: each policy is a model of its own.

Weights are float32 and stay so on disk, because a step is often smaller than bfloat16 can tell; where bfloat16 is asked for,
products are computed in it (autocast), as the engine does when it samples. The reference is the model as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from configs.errors import UpdateError
from stages.learners.protocol import HiddenStates, Scored, TrainRow, one_policy
from stages.learners.scoring.causal import CausalScorer, Layout
from stages.models.adapter_files import FULL_FILE
from store.artifacts.policy_version import PolicyVersion


class FullLearner:
    """Trains whole models. Implements Learner. Raises UpdateError when the model cannot be packed."""

    def __init__(
        self,
        model: Any,
        policies: Iterable[str],
        layout: Layout = "packed",
        threads: int = 1,
        dtype: str = "float32",
        checkpointing: bool = False,
    ) -> None:
        """Train copies of a loaded float32 model, which the learner takes for itself. `dtype`: of the products."""
        self._threads, self._half = threads, dtype == "bfloat16"
        self._device = next(model.parameters()).device.type
        self._reference = model.eval().requires_grad_(False)
        self._models = {name: copy.deepcopy(model).requires_grad_(True) for name in policies}
        self._scorers = {name: CausalScorer(own, own, layout, checkpointing) for name, own in self._models.items()}
        self._reference_scorer = CausalScorer(model, model, layout)
        if layout == "packed":
            self._reference_scorer.check_packing("reference")

    @torch.no_grad()
    def load(self, policy: PolicyVersion, seed: int) -> None:
        """Start from these weights; a policy that the version has none of starts from the model itself."""
        torch.manual_seed(seed % 2**32)
        before = dict(self._reference.named_parameters())
        for name, model in self._models.items():
            adapter = policy.adapters.get(name)
            stored = None if adapter is None or adapter.directory is None else _stored(name, adapter.directory)
            if stored is not None and stored.keys() != before.keys():
                raise UpdateError(
                    f"policies.{name}: the stored weights {adapter and adapter.directory} are of another model, or of an "
                    f"adapter; policies.{name}.weights cannot change during a run: start another with --run NAME"
                )
            for key, parameter in model.named_parameters():
                parameter.grad = None
                parameter.copy_(before[key] if stored is None else stored[key])

    def prepare(self, rows: Sequence[TrainRow]) -> None:
        """Do nothing: the parameters do not depend on the rows."""

    def named_parameters(self, policy: str) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Return every weight (float32) of one policy's model by name, sorted; tied ones once."""
        return sorted(self._models[policy].named_parameters())

    def batches(self, rows: Sequence[TrainRow], max_tokens: int) -> list[list[TrainRow]]:
        """Return micro-batches of at most `max_tokens` tokens as the layout counts them; rows of one context together."""
        return self._reference_scorer.batches(rows, max_tokens)

    def score(self, rows: Sequence[TrainRow]) -> list[Scored]:
        """Return, per row, log-probs and entropies [T] of its sampled tokens at its temperature, differentiable.

        The rows are of one policy. UpdateError when they are of several, or longer than a packed model can see.
        """
        if not rows:
            return []
        policy = one_policy(rows)
        torch.set_num_threads(self._threads)  # another library may have changed it, and a sum's order with it
        with self._arithmetic():
            return self._scorers[policy].score(rows)

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> list[torch.Tensor]:
        """Return, per row, [T] under the model before any training; no gradient."""
        torch.set_num_threads(self._threads)
        with torch.no_grad(), self._arithmetic():
            return [scored.logprob_T for scored in self._reference_scorer.score(rows)] if rows else []

    def read(self, rows: Sequence[TrainRow]) -> list[HiddenStates]:
        """Return, per row, (of one policy) the hidden states [D] of that policy's model; no gradient."""
        if not rows:
            return []
        torch.set_num_threads(self._threads)
        with torch.no_grad(), self._arithmetic():
            return self._scorers[one_policy(rows)].read(rows)

    def save(self, directory: Path) -> dict[str, Path]:
        """Write each policy's weights below `directory`; equal weights are equal bytes."""
        folders = {}
        for name in self._models:
            folders[name] = directory / name
            folders[name].mkdir(parents=True, exist_ok=True)
            tensors = {key: parameter.detach().cpu().contiguous() for key, parameter in self.named_parameters(name)}
            save_file(tensors, folders[name] / FULL_FILE, metadata={"format": "pt"})
        return folders

    def _arithmetic(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device, torch.bfloat16, enabled=self._half)


def _stored(policy: str, directory: Path) -> Mapping[str, torch.Tensor]:
    try:
        return load_file(directory / FULL_FILE) if (directory / FULL_FILE).exists() else {}
    except (OSError, SafetensorError) as error:
        raise UpdateError(
            f"policies.{policy}: weights {directory}: not readable: {error}; make the update before it again"
        ) from error
