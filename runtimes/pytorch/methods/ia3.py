"""IA3 through PEFT: trained vectors that scale the outputs of layers, or the inputs of feed-forward ones."""

from __future__ import annotations

from typing import cast

import peft
from peft.tuners.ia3 import IA3Layer
from torch import nn
from transformers import PreTrainedModel

from compiler.methods import IA3
from runtimes.initial import New
from runtimes.pytorch.adapters import expression, is_linear, is_transposed, saved_modules, targets, task_type, wrapped

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: IA3, task: str, model_id: str) -> nn.Module:
    """A PEFT model: vectors on the target modules, and a trained copy of the head."""
    saved = saved_modules(model, head, method.modules_to_save)
    patterns = method.feedforward_modules
    feedforward = targets(model, saved, patterns, is_linear) if patterns else []
    configuration = peft.IA3Config(
        target_modules=expression(model, targets(model, saved, method.target_modules, is_linear)),
        feedforward_modules=expression(model, feedforward) if feedforward else [],
        fan_in_fan_out=is_transposed(model),
        modules_to_save=list(saved),
        task_type=task_type(task),
        base_model_name_or_path=model_id,
    )
    return wrapped(model, configuration, saved, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """The vectors, of ones: the first answers are the base's."""
    return [
        New(name=f"{name}.ia3_l.default", shape=tuple(cast(nn.Parameter, module.ia3_l["default"]).shape), kind="ones")
        for name, module in model.named_modules()
        if isinstance(module, IA3Layer)
    ]
