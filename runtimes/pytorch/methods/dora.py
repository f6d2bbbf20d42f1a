"""DoRA through PEFT: LoRA whose updated rows are scaled to trained lengths."""

from __future__ import annotations

from typing import cast

from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from compiler.methods import DoRA
from runtimes.initial import New
from runtimes.pytorch.methods import lora
from runtimes.pytorch.methods.lora import DROPS_IN_FROZEN, wrap_low_rank

__all__ = ["DROPS_IN_FROZEN", "new_parameters", "wrap"]


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: DoRA, task: str, model_id: str) -> nn.Module:
    """A PEFT model: updates and lengths on the target modules, and a trained copy of the head."""
    return wrap_low_rank(model, head, method, task, model_id, use_dora=True)


def new_parameters(model: nn.Module) -> list[New]:
    """The updates, and the lengths: those of the base weight's rows, so that the first answers are the base's."""
    lengths = [_lengths(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    return [*lora.new_parameters(model), *lengths]


def _lengths(name: str, module: LoraLinear) -> New:
    vector = module.lora_magnitude_vector["default"].weight
    return New(
        name=f"{name}.lora_magnitude_vector.default.weight",
        shape=tuple(cast(nn.Parameter, vector).shape),
        kind="norms",
        source=f"{name}.base_layer.weight",
        axis=0 if module.fan_in_fan_out else 1,
    )
