"""Policy and update sections: what is trained, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.section import Section


class PolicyConfig(Section):
    """One set of trainable weights."""

    weights: Literal["lora", "full"] = "lora"
    """"lora": an adapter. "full": every weight of the model, for small models: each policy is then a model of its own, and
    wants a far lower learning rate. All policies of a team are of one kind."""
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: float | None = Field(None, gt=0)
    """Overrides update.learning_rate for this policy."""
    frozen: bool = False
    """Samples but is never trained."""


class ScheduleConfig(Section):
    """How the learning rate goes over the whole run. Stays as it is where no rounds are given."""

    kind: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: stays, or falls to `min_lr_ratio` at the end of the run."""
    rounds: int | None = Field(None, ge=1)
    """Length of the run that the schedule spans; linear, cosine and a warm-up need it."""
    warmup_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the run over which the rate rises from zero."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Share of the rate that is left at the end."""
    every: Literal["step", "round"] = "step"
    """Whether the rate changes with every optimiser step, or stays within a round."""

    @model_validator(mode="after")
    def _spans_a_run(self) -> ScheduleConfig:
        if self.rounds is None and (self.kind != "constant" or self.warmup_ratio):
            raise ValueError("update.schedule.rounds: missing; a schedule spans a run, say how many rounds it has")
        return self


class KlConfig(Section):
    """Staying near the reference: the model before any training, without adapters. Measured whatever is set here."""

    coefficient: float = Field(0.0, ge=0)
    """Weight of the KL in the loss; 0: only measured."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """See stages/losses/kl_to_reference.py; k1 in the loss has no gradient on average."""


class UpdateConfig(Section):
    """The policy update."""

    learning_rate: float = Field(3e-4, gt=0)
    schedule: ScheduleConfig = ScheduleConfig()
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0)
    epochs: int = Field(1, ge=1)
    minibatches: int = Field(4, ge=1)
    """Optimiser steps per epoch; problems are dealt to them by the seed."""
    loss: Literal["clipped_policy_gradient", "reinforce"] = "clipped_policy_gradient"
    clip: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1)
    """Bounds the loss of bad messages that have become likelier; None: unbounded, as in PPO."""
    ratio: Literal["token", "sequence"] = "token"
    """Per token, or one ratio per message (the paper's formula)."""
    reduction: Literal["role_token_mean", "token_mean", "sequence_mean", "constant"] = "role_token_mean"
    """"role_token_mean": mean over the trained tokens of a role, summed over roles. "constant": mean over messages of
    their sum, divided by `constant_tokens`."""
    constant_tokens: int | None = Field(None, ge=1)
    kl: KlConfig = KlConfig()
    entropy_coefficient: float = Field(0.0, ge=0)
    """Weight of the entropy in the loss; it is measured whatever is set here."""
    truncated_importance: float | None = Field(None, gt=0)
    """Cap of the weights that correct for the engine's arithmetic; None: no weights. Rows without the engine's log-probs
    are then left out."""
    frozen_roles: tuple[str, ...] = ()
    """Roles that are not learned from, though their policy may be trained by others."""
    train_truncated: bool = True
    """Whether messages cut at max_new_tokens are learned from."""
    undefined_advantage: Literal["skip", "zero"] = "skip"
    """What becomes of a row whose advantage is NULL: left out (and counted), or trained as 0."""
    max_version_lag: int = Field(0, ge=0)
    """How many updates ago a row's policy may have sampled it. 0: only the policy that this update starts from."""
    max_logprob_mismatch: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """The update stops when a role's log-probs as recomputed and as sampled differ by more than this per token, on
    average. "auto": 0.2 in bfloat16, 0.002 in float32."""
    checkpoint_steps: int = Field(4, ge=1)
    """Optimiser steps per part of the update: a killed update loses at most these."""
    processes: int = Field(1, ge=1)
    """How many share each optimiser step: one per GPU, or side by side on a CPU (each with engine.threads). They are started
    for each part and give the update of one process but for rounding (and but for dropout's draws)."""
    layout: Literal["packed", "padded", "single"] = "packed"
    """How rows share a forward pass; all three give the same gradient."""
    max_tokens: int = Field(1024, ge=64)
    """Tokens in one micro-batch: bounds memory, changes nothing else but rounding."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base while training (adapters are float32). "auto": the engine's."""
    gradient_checkpointing: bool = False
    """Compute activations again when going back: less memory, a third more time."""
    keep_model: bool | Literal["auto"] = "auto"
    """Keep the trainer's model from round to round: no loading, but its memory stays taken while sampling. "auto": yes,
    but beside vLLM only on a CPU."""

    @model_validator(mode="after")
    def _reduces(self) -> UpdateConfig:
        if (self.reduction == "constant") != (self.constant_tokens is not None):
            raise ValueError(
                'update.constant_tokens: goes with update.reduction = "constant", and that needs it: the number of tokens '
                "that a message's summed loss is divided by"
            )
        return self
