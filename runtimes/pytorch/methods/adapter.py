"""Bottleneck adapters through PEFT, with a tuner of ours: small layers after frozen projections, the head trained."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from compiler.methods import Adapter
from compiler.methods.adapter import matches
from runtimes.errors import RunError
from runtimes.initial import New
from runtimes.pytorch import adapters
from runtimes.pytorch.bottleneck import BottleneckConfig, BottleneckLayer

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: Adapter, task_type: str, model_id: str) -> nn.Module:
    """A PEFT model: adapters after the target modules, and a trained copy of the head."""
    configuration = BottleneckConfig(
        target_modules=_targets(model, method),
        modules_to_save=list(head),
        reduction_factor=method.reduction_factor,
        non_linearity=method.non_linearity,
        dropout=method.dropout,
        task_type=cast(Any, adapters.task_type(task_type)),
        base_model_name_or_path=model_id,
    )
    return adapters.wrapped(model, configuration, head, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """The adapters: the way down within 1 / sqrt(inputs), the way up zero, so that the model begins as it was."""
    return [
        new
        for name, module in model.named_modules()
        if isinstance(module, BottleneckLayer)
        for new in _of_layer(name, module)
    ]


def _of_layer(name: str, layer: BottleneckLayer) -> list[New]:
    down = cast(nn.Linear, layer.bottleneck_down["default"])
    units, outputs = down.out_features, down.in_features
    below, above = f"{name}.bottleneck_down.default", f"{name}.bottleneck_up.default"
    return [
        New(name=f"{below}.weight", shape=(units, outputs), kind="uniform", scale=outputs**-0.5),
        New(name=f"{below}.bias", shape=(units,), kind="zeros"),
        New(name=f"{above}.weight", shape=(outputs, units), kind="zeros"),
        New(name=f"{above}.bias", shape=(outputs,), kind="zeros"),
    ]


def _targets(model: PreTrainedModel, method: Adapter) -> list[str]:
    """The full names in the model of what the plan's patterns mean, which speak of names in the files."""
    linear = [name for name, module in model.named_modules() if adapters.is_linear(module)]
    stored = adapters.stored_names(model, linear)
    found = [name for name in linear if any(matches(pattern, stored[name]) for pattern in method.target_modules)]
    if not found:
        raise RunError("E406", f"{', '.join(method.target_modules)}: no such linear layer in the model", "name others")
    return found
