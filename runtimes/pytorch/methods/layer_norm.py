"""Norm tuning through PEFT: the norms are copied, and the copies trained."""

from __future__ import annotations

import peft
from torch import nn
from transformers import PreTrainedModel

from compiler.methods import LayerNorm
from runtimes.initial import New
from runtimes.pytorch.adapters import expression, saved_modules, targets, task_type, wrapped

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: LayerNorm, task: str, model_id: str) -> nn.Module:
    """A PEFT model: trained copies of the norms and of the head."""
    saved = saved_modules(model, head, method.modules_to_save)
    configuration = peft.LNTuningConfig(
        target_modules=expression(model, targets(model, saved, method.target_modules, is_norm)),
        modules_to_save=list(saved),
        task_type=task_type(task),
        base_model_name_or_path=model_id,
    )
    return wrapped(model, configuration, saved, model_id)


def new_parameters(model: nn.Module) -> list[New]:
    """Nothing is drawn: the copies have the values of the norms."""
    return []


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises single rows: by its class, as other modules have vectors as well."""
    kind, weight = type(module).__name__.lower(), getattr(module, "weight", None)
    return "norm" in kind and "batchnorm" not in kind and isinstance(weight, nn.Parameter) and weight.ndim == 1
