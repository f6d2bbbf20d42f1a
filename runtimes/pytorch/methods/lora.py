"""LoRA through PEFT: low-rank updates beside frozen weights, the head trained in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import peft
import torch
from peft.tuners.lora import Linear as LoraLinear
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight the other way round

from compiler.methods.lora import LowRank, matches
from runtimes.errors import RunError
from runtimes.initial import New
from runtimes.pytorch.quiet import quiet

DROPS_IN_FROZEN = True


def wrap(model: PreTrainedModel, head: tuple[str, ...], method: LowRank, task_type: str, model_id: str) -> nn.Module:
    """A PEFT model: updates on the target modules, and a trained copy of the head."""
    configuration = peft.LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=_targets(model, head, method),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        modules_to_save=list(head),
        task_type=peft.TaskType[task_type] if task_type else None,
        base_model_name_or_path=model_id,
        init_lora_weights=False,
    )
    with quiet():
        wrapped = peft.get_peft_model(model, configuration)
    written = cast(peft.LoraConfig, wrapped.peft_config["default"])
    written.base_model_name_or_path = model_id  # not where the files happen to lie
    written.modules_to_save = list(head)  # PEFT lists a SEQ_CLS head twice
    written.init_lora_weights = True
    return wrapped


def new_parameters(model: nn.Module) -> list[New]:
    """The updates: A as PEFT draws it (Kaiming uniform, a = sqrt 5: within 1 / sqrt(inputs)), B zero."""
    found: list[New] = []
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            down, up = (cast(nn.Linear, part["default"]) for part in (module.lora_A, module.lora_B))
            a = (down.out_features, down.in_features)
            b = (up.out_features, up.in_features)
            scale = down.in_features**-0.5
            found.append(New(name=f"{name}.lora_A.default.weight", shape=a, kind="uniform", scale=scale))
            found.append(New(name=f"{name}.lora_B.default.weight", shape=b, kind="zeros"))
    return found


def _targets(model: PreTrainedModel, head: tuple[str, ...], method: LowRank) -> list[str]:
    """The plan's patterns, which speak of names in the files.

    Full names where the model calls its modules otherwise (ViT), or where a pattern would also match inside the head,
    which is trained anyway.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    stored = stored_names(model, linear)
    matched = [name for name in linear if any(matches(pattern, stored[name]) for pattern in method.target_modules)]
    outside = [name for name in matched if not any(name == top or name.startswith(f"{top}.") for top in head)]
    if not outside:
        raise RunError("E406", f"{', '.join(method.target_modules)}: no such linear module in the model", "name others")
    plain = [name for name in linear if any(matches(pattern, name) for pattern in method.target_modules)]
    return list(method.target_modules) if outside == plain else outside


def stored_names(model: PreTrainedModel, modules: Sequence[str]) -> dict[str, str]:
    """What transformers calls modules in the files that it writes."""
    found: dict[str, str] = {}
    for name in modules:
        [stored, *_] = revert_weight_conversion(model, {f"{name}.weight": torch.empty(0)})
        found[name] = stored.removesuffix(".weight")
    return found


def merge(base: PreTrainedModel, adapter_folder: Path, missing: Sequence[str]) -> PreTrainedModel:
    """The base model with an adapter's updates added to its weights, and with the adapter's head.

    `missing`: parameters that the base's files don't have. Raises RunError when the adapter does not bring them either.
    """
    with safe_open(adapter_folder / "adapter_model.safetensors", framework="pt") as file:
        brought = {name.removeprefix("base_model.model.") for name in file.keys()}  # noqa: SIM118  (not a mapping)
    if lost := sorted(set(missing) - brought):
        message = f"neither the base model nor the adapter has {', '.join(lost)}"
        raise RunError("E406", message, "train the adapter anew: a merged model would have a random head")
    with quiet():
        wrapped = peft.PeftModel.from_pretrained(base, adapter_folder)
        return cast(PreTrainedModel, wrapped.merge_and_unload(safe_merge=True))
