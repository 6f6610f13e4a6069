"""The optimisers of an update: one AdamW per trained policy, its state as safetensors by parameter name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from configs.errors import UpdateError
from configs.training import PolicyConfig, UpdateConfig
from stages.learners.protocol import Learner


class Optimizers:
    """AdamW (arXiv 1711.05101) per policy. A policy without parameters yet (an untrained table) has none."""

    def __init__(
        self, config: UpdateConfig, policies: Mapping[str, PolicyConfig], learner: Learner, state: Path | None
    ) -> None:
        self._learner, self._max_norm = learner, config.max_grad_norm
        self._rates = {name: policy.learning_rate or config.learning_rate for name, policy in policies.items()}
        parameters = {name: [parameter for _, parameter in learner.named_parameters(name)] for name in policies}
        self._of = {
            name: torch.optim.AdamW(
                parameters[name],
                lr=self._rates[name],
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True,  # one kernel over all matrices: there are hundreds, each small
            )
            for name in policies
            if parameters[name]
        }
        if state is not None:
            self._load(state)

    @property
    def policies(self) -> tuple[str, ...]:
        """Policies that have something to train."""
        return tuple(self._of)

    def zero(self) -> None:
        """Forget the gradients."""
        for optimizer in self._of.values():
            optimizer.zero_grad(set_to_none=True)

    def descend(self, share: float) -> dict[str, tuple[float, float]]:
        """Clip each policy's gradient and step with this share of its rate; return norm before clipping and rate used.

        UpdateError when a gradient is not finite.
        """
        figures = {}
        for name, optimizer in self._of.items():
            parameters = [parameter for _, parameter in self._learner.named_parameters(name)]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._max_norm))
            if not isfinite(norm):
                raise UpdateError(
                    f"update: the gradient of policy '{name}' is not finite ({norm}); no policy version was written. "
                    f'Lower update.learning_rate, or set update.dtype = "float32"'
                )
            rate = self._rates[name] * share
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            figures[name] = (norm, rate)
        return figures

    def save(self, folder: Path) -> None:
        """Write each policy's state, by parameter name."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, optimizer in self._of.items():
            tensors = {
                f"{parameter_name}:{key}": value.contiguous()
                for parameter_name, parameter in self._learner.named_parameters(name)
                for key, value in optimizer.state.get(parameter, {}).items()
            }
            save_file(tensors, folder / f"{name}.safetensors")
        (folder / "optimizer.json").write_text(json.dumps({"kind": "adamw"}) + "\n", encoding="utf-8")

    def _load(self, folder: Path) -> None:
        for name, optimizer in self._of.items():
            path = folder / f"{name}.safetensors"
            if not path.exists():
                continue  # a policy that was frozen until now starts afresh
            by_parameter: dict[str, dict[str, torch.Tensor]] = {}
            for key, value in load_file(path).items():
                parameter_name, _, part = key.rpartition(":")
                by_parameter.setdefault(parameter_name, {})[part] = value
            for parameter_name, parameter in self._learner.named_parameters(name):
                if parameter_name in by_parameter:
                    stored = by_parameter[parameter_name]
                    optimizer.state[parameter] = {part: value.to(parameter.device) for part, value in stored.items()}
