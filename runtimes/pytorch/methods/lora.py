"""LoRA through PEFT: low-rank updates beside frozen weights, the head trained in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import peft
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import PreTrainedModel

from compiler.methods.lora import LowRank
from compiler.methods.targets import meant
from runtimes.initial import New
from runtimes.pytorch.adapters import is_linear, is_transposed, saved_modules, targets, task_type, wrapped

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: LowRank, task: str, model_id: str) -> nn.Module:
    """A PEFT model: updates on the target modules, and a trained copy of the head."""
    return wrap_low_rank(model, head, method, task, model_id)


def wrap_low_rank(
    model: PreTrainedModel, head: tuple[str, ...], method: LowRank, task: str, model_id: str, **options: Any
) -> nn.Module:
    """A PEFT model with updates of low rank. `options`: further ones of PEFT's LoraConfig."""
    saved = saved_modules(model, head, method.modules_to_save)
    configuration = peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        use_rslora=method.rank_stabilized,
        lora_dropout=method.dropout,
        target_modules=_targets(model, saved, method),
        fan_in_fan_out=is_transposed(model),
        modules_to_save=list(saved),
        task_type=task_type(task),
        base_model_name_or_path=model_id,
        init_lora_weights=False,
        **options,
    )
    found = wrapped(model, configuration, saved, model_id)
    own = _configuration(found)
    own.init_lora_weights = True if method.initialization == "kaiming" else method.initialization
    return found


def _configuration(model: nn.Module) -> peft.LoraConfig:
    return cast(peft.LoraConfig, cast(Any, model).peft_config["default"])


def new_parameters(model: nn.Module) -> list[New]:
    """The updates B A, as PEFT draws them."""
    kind = _configuration(model).init_lora_weights
    return [
        new
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
        for new in _updates(name, module, kind)
    ]


def _updates(name: str, module: LoraLinear, kind: object) -> Iterator[New]:
    """A and B of a layer.

    Kaiming: A uniform with a = sqrt 5, which is within 1 / sqrt(inputs). Gaussian: a deviation of 1 / rank. Both B
    zero. Orthogonal: see runtimes/initial.py.
    """
    down, up = (cast(nn.Linear, part["default"]) for part in (module.lora_A, module.lora_B))
    a, b = f"{name}.lora_A.default.weight", f"{name}.lora_B.default.weight"
    a_shape, b_shape = (down.out_features, down.in_features), (up.out_features, up.in_features)
    match kind:
        case "orthogonal":
            yield New(name=a, shape=a_shape, kind="orthogonal", scale=0.1, source=name, axis=0)
            yield New(name=b, shape=b_shape, kind="orthogonal", scale=0.1, source=name, axis=1)
        case "gaussian":
            yield New(name=a, shape=a_shape, kind="normal", scale=1 / down.out_features)
            yield New(name=b, shape=b_shape, kind="zeros")
        case _:
            yield New(name=a, shape=a_shape, kind="uniform", scale=down.in_features**-0.5)
            yield New(name=b, shape=b_shape, kind="zeros")


def _targets(model: PreTrainedModel, saved: Sequence[str], method: LowRank) -> list[str]:
    """The plan's patterns, which speak of names in the files.

    Full names where PEFT would not find the same modules by them: where the model calls its modules otherwise (ViT),
    where a pattern has a *, or would also match inside the head, which is trained anyway.
    """
    outside = targets(model, saved, method.target_modules, is_linear)
    plain = meant(method.target_modules, (name for name, module in model.named_modules() if is_linear(module)))
    simple = outside == list(plain) and not any("*" in pattern for pattern in method.target_modules)
    return list(method.target_modules) if simple else outside
