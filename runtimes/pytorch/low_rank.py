"""A LoRA layer with fewer passes over memory than PEFT's, and the same values up to rounding."""

# N = tokens of the batch, I = inputs, O = outputs, R = rank

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _LowRankLinear(torch.autograd.Function):
    """x W' + b + scale (x A') B', with the update added in place and no copy of it kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = x_NI @ down_RI.t()
        out_NO = nn.functional.linear(x_NI, weight_OI, bias_O).addmm_(low_NR, up_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI, low_NR, weight_OI, down_RI, up_OR)
        ctx.scale, ctx.shape = scale, x.shape
        return out_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, low_NR, weight_OI, down_RI, up_OR = ctx.saved_tensors
        gradient_NO = gradient.reshape(-1, gradient.shape[-1])
        gradient_NR = (gradient_NO @ up_OR).mul_(ctx.scale)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = (gradient_NO @ weight_OI).addmm_(gradient_NR, down_RI).view(ctx.shape)
        # Written as [R, O]: matrix products with few rows are several times faster than with few columns.
        gradient_RO = (low_NR.t() @ gradient_NO).mul_(ctx.scale)
        return gradient_x, None, None, gradient_NR.t() @ x_NI, gradient_RO.t(), None


class FusedLoraLinear(LoraLinear):
    """PEFT's layer, whose plain case (one update, no dropout on it, one dtype) is computed by the formula above."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[..., O] of x [..., I]."""
        if args or kwargs or not self._is_plain(x):
            return super().forward(x, *args, **kwargs)
        base, [name] = self.base_layer, self.active_adapters
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        operands = (x, base.weight, base.bias, down, up, self.scaling[name])
        return _LowRankLinear.apply(*operands)  # type: ignore[no-untyped-call, no-any-return]

    def _is_plain(self, x: Tensor) -> bool:
        names = self.active_adapters
        if len(names) != 1 or self.disable_adapters or self.merged or torch.is_autocast_enabled(x.device.type):
            return False
        name = names[0]
        dropout, base = self.lora_dropout[name], self.base_layer
        return (
            type(base) is nn.Linear
            and not any(parameter.requires_grad for parameter in base.parameters())
            and name not in self.lora_variant
            and not self.lora_bias[name]
            and (isinstance(dropout, nn.Identity) or not self.training)
            and x.dtype == base.weight.dtype == self.lora_A[name].weight.dtype
        )


def fuse(model: nn.Module) -> None:
    """Lets every plain LoRA layer of a PEFT model compute by the fused formula; names and files stay PEFT's."""
    for module in model.modules():
        if type(module) is LoraLinear:
            module.__class__ = FusedLoraLinear
