"""What methods of PEFT have in common: which modules are meant, how a model is wrapped, how it is merged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import peft
import torch
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.pytorch_utils import Conv1D  # GPT-2's linear layer, its weight the other way round

from compiler.adapter_names import bare_name, inside, is_of_head, saved_name
from compiler.methods.targets import meant
from runtimes.errors import RunError
from runtimes.pytorch.quiet import quiet

Array = npt.NDArray[np.float32]
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer."""
    return isinstance(module, (nn.Linear, Conv1D))


def is_transposed(model: nn.Module) -> bool:
    """Whether a model's linear layers hold their weights the other way round."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def stored_names(model: PreTrainedModel, modules: Iterable[str]) -> dict[str, str]:
    """What transformers calls modules in the files that it writes."""
    found: dict[str, str] = {}
    for name in modules:
        [stored, *_] = revert_weight_conversion(model, {f"{name}.weight": torch.empty(0)})
        found[name] = stored.removesuffix(".weight")
    return found


def targets(
    model: PreTrainedModel, head: Sequence[str], patterns: Sequence[str], wanted: Callable[[nn.Module], bool]
) -> list[str]:
    """The modules of a kind that patterns mean, which speak of names in the files; but for those in the head.

    Raises RunError E406 where there are none.
    """
    stored = stored_names(model, (name for name, module in model.named_modules() if wanted(module)))
    known = set(meant(patterns, stored.values()))
    outside = [name for name, own in stored.items() if own in known and not any(inside(name, top) for top in head)]
    if not outside:
        raise RunError("E406", f"{', '.join(patterns)}: no such module in the model", "name others")
    return outside


def expression(model: nn.Module, modules: Sequence[str]) -> str:
    """The regular expression by which PEFT finds these modules of a model and no other."""
    general = "|".join(dict.fromkeys(r"\d+".join(map(re.escape, _NUMBER.split(name))) for name in modules))
    found = [name for name, _ in model.named_modules() if re.fullmatch(general, name)]
    return general if set(found) == set(modules) else "|".join(map(re.escape, modules))


def saved_modules(model: PreTrainedModel, head: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The modules that are trained in full beside an adapter: the head, and those that patterns mean.

    Raises RunError E406 where a pattern means nothing in the model, or shares its weights with the last layer.
    """
    stored = stored_names(model, (name for name, _ in model.named_modules() if name))
    found = [name for name, own in stored.items() if meant(patterns, (own,))]
    outside = [name for name in found if not any(inside(name, top) for top in head)]
    lacking = [pattern for pattern in patterns if not meant((pattern,), stored.values())]
    if lacking:
        raise RunError("E406", f"{', '.join(lacking)}: no such module in the model", "name others")
    top = [name for name in outside if not any(name != other and inside(name, other) for other in outside)]
    _require_own(model, top)
    return [*head, *top]


def _require_own(model: nn.Module, modules: Sequence[str]) -> None:
    """Nothing where modules share no weights with others. Raises RunError E406: a trained copy would part them."""
    named = list(model.named_parameters(remove_duplicate=False))
    held = {id(value): name for name, value in named if any(inside(name, module) for module in modules)}
    for name, value in named:
        if id(value) in held and not any(inside(name, module) for module in modules):
            message = f"{held[id(value)]} is the weight of {name} as well, and a trained copy would part them"
            raise RunError("E406", message, "leave it out of /method/modules_to_save, or use the method full")


def wrapped(
    model: PreTrainedModel, configuration: peft.PeftConfig, saved: Sequence[str], model_id: str
) -> peft.PeftModel:
    """A model with an adapter, as its configuration is to be written."""
    with quiet():
        found = peft.get_peft_model(model, configuration)
    written: Any = found.peft_config["default"]
    written.base_model_name_or_path = model_id  # not where the files happen to lie
    written.modules_to_save = list(saved) or None  # PEFT lists a SEQ_CLS head twice, and names that one may have
    return cast(peft.PeftModel, found)


def begun(model: nn.Module, folder: Path, head: Sequence[str], *, keep_head: bool) -> dict[str, Array]:
    """The values that an adapter's folder has for the trained parameters of a wrapped model, by their names in it.

    Those of the head may be missing, or of other sizes, or are left out unless `keep_head`: then they are as without
    the adapter. Raises RunError E406 where others are missing, or where there are more.
    """
    found = load_file(folder / "adapter_model.safetensors")
    stored = {name: value for name, value in found.items() if keep_head or not is_of_head(name, head)}
    wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
    places = {name: saved_name(name) for name in wanted}
    shapes = {name: value.shape for name, value in stored.items()}
    fits = [name for name, value in wanted.items() if shapes.get(places[name]) == value.shape]

    lacking = [places[name] for name in wanted if name not in fits and not is_of_head(places[name], head)]
    more = [name for name in stored if name not in places.values() and not is_of_head(name, head)]
    if lacking or more:
        what = f"lacks {lacking[0]}" if lacking else f"has {more[0]} besides"
        message = f"/method/from: the adapter is not of this method and model: it {what}"
        raise RunError("E406", message, "name its target modules, and what else it was trained with")
    return {name: stored[places[name]].float().numpy() for name in fits}


def task_type(name: str) -> peft.TaskType | None:
    """PEFT's word for a task, where it has one."""
    return peft.TaskType[name] if name else None


def merge(base: PreTrainedModel, adapter_folder: Path, missing: Sequence[str]) -> PreTrainedModel:
    """The base model with an adapter's updates in its weights, and with the modules that the adapter brings whole.

    `missing`: parameters that the base's files don't have. Raises RunError when the adapter does not bring them either.
    """
    with safe_open(adapter_folder / "adapter_model.safetensors", framework="pt") as file:
        brought = {bare_name(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    if lost := sorted(set(missing) - brought):
        message = f"neither the base model nor the adapter has {', '.join(lost)}"
        raise RunError("E406", message, "train the adapter anew: a merged model would have a random head")
    with quiet():
        model = peft.PeftModel.from_pretrained(base, adapter_folder)
        _unwrap_saved(model)
        return cast(PreTrainedModel, model.merge_and_unload(safe_merge=True))


def _unwrap_saved(model: nn.Module) -> None:
    """Puts trained copies where they belong: PEFT 0.21 leaves them beside the originals (ln_tuning), or fails (ia3)."""
    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            [active] = module.active_adapters
            place, _, own = name.rpartition(".")
            setattr(model.get_submodule(place), own, module.modules_to_save[active])
