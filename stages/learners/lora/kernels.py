"""A linear layer with its adapter as one differentiable product, in place of PEFT's chain of small ones.

    y = x W' + b + s (x A') B'        W [out, in] frozen, A [r, in] and B [out, r] trained, s = alpha / r

PEFT casts the input to the adapter's float32, multiplies there, scales, casts back and adds: eight kernels forward and
more than a dozen back, which cost as much as the products themselves. Here the adapter is rounded to the base's dtype for
its products (accumulated in float32 by the processor, as for any bfloat16 product) and its gradient is float32 again.
In float32 both are the same numbers up to the order of additions.

Axes: M tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from peft.tuners.lora.layer import Linear


def fuse_lora(model: torch.nn.Module) -> int:
    """Let every plain linear layer that has adapters compute this way; how many there are.

    Layers of other kinds (GPT-2's transposed ones), and any layer whose adapter has dropout, stay PEFT's own.
    """
    layers = [
        module
        for module in model.modules()
        if type(module) is Linear and type(module.get_base_layer()) is torch.nn.Linear
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward)  # type: ignore[method-assign]
    return len(layers)


def _forward(layer: Any, plain: Any, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    base = layer.get_base_layer()
    if layer.disable_adapters:
        return base(x)  # type: ignore[no-any-return]
    name = layer.active_adapters[0]
    if len(layer.active_adapters) > 1 or not isinstance(layer.lora_dropout[name], torch.nn.Identity):
        return plain(x, *arguments, **options)  # type: ignore[no-any-return]
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    return LoraProduct.apply(x, base.weight, base.bias, down, up, layer.scaling[name])  # type: ignore[no-any-return]


class LoraProduct(torch.autograd.Function):
    """The product above. The base is frozen: no gradient is made for `weight_OI` and `bias_O`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        down_RI: torch.Tensor,
        up_OR: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Return [..., O] from [..., I]."""
        x_MI = x.reshape(-1, x.shape[-1])
        down_rounded, up_rounded = down_RI.to(x.dtype), (scale * up_OR).to(x.dtype)
        low_MR = x_MI @ down_rounded.T
        y_MO = x_MI @ weight_OI.T if bias_O is None else torch.addmm(bias_O, x_MI, weight_OI.T)
        y_MO.addmm_(low_MR, up_rounded.T)
        ctx.save_for_backward(x_MI, weight_OI, down_rounded, up_rounded, low_MR)
        ctx.scale, ctx.shape, ctx.trained = scale, x.shape, down_RI.dtype
        return y_MO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return gradients of x, A and B."""
        x_MI, weight_OI, down_RI, up_OR, low_MR = ctx.saved_tensors
        gradient_MO = gradient.reshape(-1, gradient.shape[-1])
        low_gradient_MR = gradient_MO @ up_OR
        x_gradient = None
        if ctx.needs_input_grad[0]:
            x_gradient = (gradient_MO @ weight_OI).addmm_(low_gradient_MR, down_RI).view(ctx.shape)
        if not ctx.needs_input_grad[3]:
            return x_gradient, None, None, None, None, None
        down_gradient = (low_gradient_MR.T @ x_MI).to(ctx.trained)
        up_gradient = (gradient_MO.T @ low_MR).to(ctx.trained).mul_(ctx.scale)
        return x_gradient, None, None, down_gradient, up_gradient, None
