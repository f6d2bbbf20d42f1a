"""Loading, wrapping and saving transformers models: float32 weights, a head for the plan's task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from compiler.plan import Train
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.initial import New, initial_values
from runtimes.pytorch.methods import lora, module_of
from runtimes.pytorch.quiet import quiet
from runtimes.tasks import Head

_HEAD_DEVIATION = 0.02  # where the model's configuration does not name its initializer_range


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A pretrained model, the modules of its task head, and the parameters that its files don't have."""

    model: PreTrainedModel
    head: tuple[str, ...]  # module names, whole subtrees
    missing: tuple[str, ...]  # parameter names


def load_pretrained(folder: Path, head: Head) -> Loaded:
    """The model of a folder in float32 on CPU, with a task's head.

    Raises RunError when the folder has no safetensors weights, or when weights of the encoder are missing.
    """
    with quiet():
        try:
            model, found = getattr(transformers, head.auto_class).from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                **head.config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:  # transformers and its configurations raise errors of many libraries
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            message = f"transformers can't load the model: {reason}"
            hint = "its config.json and model.safetensors must be those of one model, of an architecture it knows"
            raise RunError("E406", message, hint) from error
    mismatched = {name for name, *_ in found["mismatched_keys"]}
    missing = tuple(sorted({*found["missing_keys"], *mismatched}))
    _own_memory(model)
    return Loaded(model=model, head=_head_of(model, missing), missing=missing)


def _own_memory(model: nn.Module) -> None:
    """Moves weights out of the mapped file, where they lie at any offset: matrix products want aligned memory."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def _head_of(model: PreTrainedModel, missing: Sequence[str]) -> tuple[str, ...]:
    """Modules beside the encoder that have parameters, and a pooler that the files don't have."""
    prefix = f"{model.base_model_prefix}."
    absent = [name for name in missing if name.startswith(prefix) and "pooler" not in name.split(".")]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        message = f"the model's files lack weights of the encoder: {', '.join(absent[:3])}{more}"
        raise RunError("E406", message, "name a model with all of its weights in /model")
    beside = [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]
    poolers = sorted({name[: name.index("pooler") + len("pooler")] for name in missing if name.startswith(prefix)})
    return (*beside, *poolers)


def wrapped_model(step: Train, folder: Path, init_file: Path) -> tuple[nn.Module, PreTrainedModel]:
    """The model as the method trains it, every new parameter with its first value; and the model inside."""
    head = tasks.module_of(step.task).head(step.task)
    loaded = load_pretrained(folder, head)
    heads = _new_head(loaded, keep=step.keep_head)
    method = module_of(step.method.type)
    # The head gets its values before the method copies it; the names in the file are those of the bare model.
    bare: dict[str, nn.Parameter] = dict(loaded.model.named_parameters())
    model = method.wrap(loaded.model, loaded.head, step.method, head.peft_task, step.model.id)
    added = method.new_parameters(model)
    values = initial_values([*heads, *added], step.seed, init_file)
    _assign(_with_copies(model, bare), values, heads)
    _assign({name: [parameter] for name, parameter in model.named_parameters()}, values, added)
    return model, loaded.model


def _new_head(loaded: Loaded, *, keep: bool) -> list[New]:
    """The parameters that get new values: those that the files lack, and the whole head unless it is kept."""
    deviation = float(getattr(loaded.model.config, "initializer_range", None) or _HEAD_DEVIATION)
    new = [
        name
        for name, _ in loaded.model.named_parameters()
        if name in loaded.missing or (not keep and any(name.startswith(f"{top}.") for top in loaded.head))
    ]
    return [_first(name, loaded.model.get_parameter(name), deviation) for name in new]


def _first(name: str, parameter: nn.Parameter, deviation: float) -> New:
    """Weights normal, biases zero, the scales of norms one: as transformers draws them."""
    shape = tuple(parameter.shape)
    if parameter.ndim > 1:
        return New(name=name, shape=shape, kind="normal", scale=deviation)
    return New(name=name, shape=shape, kind="ones" if name.endswith("weight") else "zeros")


def _with_copies(model: nn.Module, bare: Mapping[str, nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """The parameters of the bare model, each with the trained copy that PEFT made of it."""
    copies = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".modules_to_save." in name
    }
    return {name: [parameter, *([copies[name]] if name in copies else [])] for name, parameter in bare.items()}


def _assign(parameters: Mapping[str, list[nn.Parameter]], values: Mapping[str, Any], which: Sequence[New]) -> None:
    with torch.no_grad():
        for new in which:
            for parameter in parameters[new.name]:
                parameter.copy_(torch.from_numpy(values[new.name]))


def save_pretrained(model: nn.Module, folder: Path) -> None:
    """Writes a transformers or PEFT model as its library reads it."""
    with quiet():
        if isinstance(model, PreTrainedModel):
            model.save_pretrained(folder)
        else:
            model.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in


def merge(base_folder: Path, adapter_folder: Path, out: Path, head: Head) -> None:
    """Writes the base model with an adapter merged into it, the trained head included, as a transformers folder."""
    loaded = load_pretrained(base_folder, head)
    save_pretrained(lora.merge(loaded.model, adapter_folder, loaded.missing), out)
