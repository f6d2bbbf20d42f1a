"""Loading, wrapping and saving transformers models: float32 weights, a head for the plan's task."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from compiler import methods
from compiler.adapter_names import own_names, without_parts
from compiler.files import write_json
from compiler.plan import Train
from runtimes import tasks
from runtimes.errors import RunError, first_line
from runtimes.initial import New, Stored, initial_values
from runtimes.pytorch import adapters
from runtimes.pytorch.heads import LastLayer, last_layer, unfolded
from runtimes.pytorch.methods import module_of
from runtimes.pytorch.quiet import quiet
from runtimes.tasks import Head

Held = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""From the values that a file has for a weight to those that it had while an adapter was trained."""
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
            reason = first_line(error)
            message = f"transformers can't load the model: {reason}"
            hint = "its config.json and model.safetensors must be those of one model, of an architecture it knows"
            raise RunError("E406", message, hint) from error
    mismatched = {name for name, *_ in found["mismatched_keys"]}
    missing = tuple(sorted({*found["missing_keys"], *mismatched}))
    _own_memory(model)
    compute_buffers(model, model)
    return Loaded(model=model, head=head_of(model, missing), missing=missing)


def _own_memory(model: nn.Module) -> None:
    """Moves weights out of the mapped file, where they lie at any offset: matrix products want aligned memory."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()


def computed_parameters(model: PreTrainedModel) -> tuple[str, ...]:
    """The parameters that are functions of the configuration, and that no file has: Marian's positions."""
    names = {name for name, _ in model.named_parameters()}
    return tuple(sorted(names & set(model._keys_to_ignore_on_save or ())))  # noqa: SLF001  (it has no other name)


def compute_buffers(model: PreTrainedModel, source: PreTrainedModel) -> None:
    """Makes buffers of these, with the values that they have in `source`: they are neither trained nor saved."""
    for name in computed_parameters(model):
        place, _, own = name.rpartition(".")
        module, value = model.get_submodule(place), source.get_parameter(name).detach()
        delattr(module, own)
        module.register_buffer(own, value, persistent=False)


def head_of(model: PreTrainedModel, missing: Sequence[str]) -> tuple[str, ...]:
    """Modules beside the encoder that have parameters, and a pooler that the files don't have."""
    if model.config.is_encoder_decoder:
        return _writing_head(model, missing)
    prefix = f"{model.base_model_prefix}."
    absent = [name for name in missing if name.startswith(prefix) and "pooler" not in name.split(".")]
    _require_whole(absent)
    beside = [
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    ]
    poolers = sorted({name[: name.index("pooler") + len("pooler")] for name in missing if name.startswith(prefix)})
    return (*beside, *poolers)


def _writing_head(model: Any, missing: Sequence[str]) -> tuple[str, ...]:
    """The module of an encoder-decoder that gives its logits: it comes with the model, as all of it does."""
    _require_whole([name for name in missing if "pooler" not in name.split(".")])
    last = model.get_output_embeddings()
    return tuple(name for name, module in model.named_modules() if module is last)


def _require_whole(absent: Sequence[str]) -> None:
    """Nothing when no weight of a pretrained model is absent. Raises RunError E406."""
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        message = f"the model's files lack weights of the encoder: {', '.join(absent[:3])}{more}"
        raise RunError("E406", message, "name a model with all of its weights in /model")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """A model as its method trains it, and the first values of its new parameters by their names in it."""

    model: nn.Module
    inner: PreTrainedModel
    head: tuple[str, ...]  # modules of the inner model, whole subtrees
    values: Mapping[str, npt.NDArray[np.float32]]
    last_layer: LastLayer | None  # where a task's scale and shift are folded into; None where there is nothing to fold


def wrapped_model(step: Train, folder: Path, init_file: Path, adapter: Path | None = None) -> Wrapped:
    """The pretrained model of a step, every new parameter with its first value."""
    wrapped = wrap(
        step, load_pretrained(folder, tasks.module_of(step.task).head(step.task)), init_file, adapter=adapter
    )
    with torch.no_grad():
        for name, value in wrapped.values.items():
            wrapped.model.get_parameter(name).copy_(torch.from_numpy(value))
    return wrapped


def wrap(
    step: Train, loaded: Loaded, init_file: Path, stored: Stored | None = None, *, adapter: Path | None = None
) -> Wrapped:
    """A loaded model with what its method adds; first values are computed, and not assigned.

    `stored`: the pretrained model's own values, where it was loaded without them. `adapter`: a folder whose values
    trained parameters have first.
    """
    heads = _new_head(loaded, keep=step.keep_head)
    method = module_of(step.method.type)
    # The head's names in the file are those of the bare model; a method may copy its parameters.
    bare: dict[str, nn.Parameter] = dict(loaded.model.named_parameters())
    head = tasks.module_of(step.task).head(step.task)
    last = last_layer(loaded.model, loaded.head, head)
    beside = () if head.pretrained and methods.module_of(step.method).SAVES == "adapter" else loaded.head
    model = method.wrap(loaded.model, beside, step.method, head.peft_task, step.model.id)
    added = method.new_parameters(model)
    values = initial_values([*heads, *added], step.seed, init_file, stored or partial(_value_of, model))
    places = _places(model, bare)
    found = {place: values[new.name] for new in heads for place in places[new.name]}
    layer = last and LastLayer(places[last.weight][-1], last.bias and places[last.bias][-1])
    begun = {} if adapter is None else _begun(step, model, loaded.head, adapter)
    return Wrapped(
        model=model,
        inner=loaded.model,
        head=loaded.head,
        values={**found, **{new.name: values[new.name] for new in added}, **unfolded(begun, layer, head)},
        last_layer=layer,
    )


def _begun(step: Train, model: nn.Module, head: Sequence[str], adapter: Path) -> dict[str, npt.NDArray[np.float32]]:
    return adapters.begun(model, adapter, head, keep_head=step.keep_adapter_head)


def _value_of(model: nn.Module, name: str) -> npt.NDArray[np.float32]:
    return model.get_parameter(name).detach().float().numpy()


def _places(model: nn.Module, bare: Mapping[str, nn.Parameter]) -> dict[str, list[str]]:
    """Where the parameters of the bare model are in the wrapped one, with the trained copies that PEFT made of them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {name: [names[id(parameter)]] for name, parameter in bare.items()}
    for name in names.values():
        if ".modules_to_save." in name:
            [own, *_] = (own for own in own_names(without_parts(name)) if own in found)
            found[own].append(name)
    return found


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


def save_pretrained(model: nn.Module, folder: Path) -> None:
    """Writes a transformers or PEFT model as its library reads it."""
    with quiet():
        if isinstance(model, PreTrainedModel):
            model.save_pretrained(folder)
        else:
            model.save_pretrained(folder, save_embedding_layers=False)  # type: ignore[operator]
            _describe(model.get_base_model(), folder)  # type: ignore[operator]
    (folder / "README.md").unlink(missing_ok=True)  # a form with nothing filled in
    _sort_sets(folder / "adapter_config.json")


def _describe(whole: PreTrainedModel, folder: Path) -> None:
    """Writes what is said of a tuned model beside its adapter: its labels and settings, as one that is saved whole."""
    config = copy.deepcopy(whole.config)
    config.architectures = [type(whole).__name__]
    config.save_pretrained(folder)
    if whole.can_generate():
        whole.generation_config.save_pretrained(folder)


def _sort_sets(file: Path) -> None:
    """Gives the modules of an adapter one order: PEFT writes sets, whose order changes from process to process."""
    if file.exists():
        value = json.loads(file.read_text(encoding="utf-8"))
        names = ("target_modules", "exclude_modules", "modules_to_save")
        lists = {name: sorted(value[name]) for name in names if isinstance(value.get(name), list)}
        write_json(file, value | lists)


def merge(
    base_folder: Path, adapter_folder: Path, out: Path, head: Head, held: Mapping[str, Held] | None = None
) -> None:
    """Writes the base model with an adapter merged into it, the trained head included, as a transformers folder.

    `held`: the parameters of the base that had other values while the adapter was trained, and which.
    """
    loaded = load_pretrained(base_folder, head)
    with torch.no_grad():
        for name, values in (held or {}).items():
            parameter = loaded.model.get_parameter(name)
            parameter.copy_(torch.from_numpy(values(parameter.numpy())))
    save_pretrained(adapters.merge(loaded.model, adapter_folder, loaded.missing), out)
