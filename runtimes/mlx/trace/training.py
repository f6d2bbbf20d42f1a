"""The graphs of a train step, and of a saved model: built without weights, as PyTorch would train and load them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from compiler.plan import Train
from compiler.tasks import Task
from compiler.weights import Tensor as Stored
from runtimes import tasks
from runtimes.errors import RunError, first_line
from runtimes.groups import Place
from runtimes.mlx.graph import Graph, Input
from runtimes.mlx.passes import simplify
from runtimes.mlx.quantization import Quantization
from runtimes.mlx.trace import trace
from runtimes.mlx.trace.fakes import TraceError, weightless, weighty
from runtimes.mlx.trace.names import names_in_model
from runtimes.mlx.weights import stored_value, weight_files
from runtimes.pytorch.embedding_noise import embedding_noise
from runtimes.pytorch.heads import LastLayer, folded
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.models import Loaded, compute_buffers, computed_parameters, head_of, save_pretrained, wrap
from runtimes.pytorch.objective import Objective, read_outputs, results_of
from runtimes.pytorch.places import places_of
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.resting import resting_modules
from runtimes.pytorch.virtual import answering_for_rows
from runtimes.rows.features import TARGETS, TOKENS
from runtimes.rows.packing import SEGMENTS, packed_columns
from runtimes.tasks import Head

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A train step's model without weights, its two graphs, and what is known of its parameters."""

    model: nn.Module
    last_layer: LastLayer | None
    train: Graph
    evaluate: Graph
    names: Mapping[str, str]  # from the files' names to the model's
    values: Mapping[str, Array]  # first values of new parameters, by their names in the graph
    places: Mapping[str, Place]  # of trained parameters
    held: Quantization | None = None  # which weights the graphs read as codes of a few bits
    head: tuple[str, ...] = ()  # the modules of the task's head, by their names in the model that its library loads


def flat(inner: nn.Module, names: Iterable[str], call: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> nn.Module:
    """A module around `inner` whose inputs are arguments of their own, as torch wants to know them."""

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **given: Tensor) -> dict[str, Tensor]:
            return call(given)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    Flat.forward.__signature__ = inspect.Signature([own, *named])  # type: ignore[attr-defined]
    return Flat()


def _training(objective: Objective, names: Iterable[str]) -> nn.Module:
    """The losses and outputs of an objective, in the mode that it is in."""

    def call(given: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = given.pop(TARGETS)
        losses_B, outputs = objective(given, targets)
        return {"losses": losses_B, "outputs": outputs}

    return flat(objective, names, call)


def trace_step(
    step: Train, folder: Path, stored: Mapping[str, Stored] | None, init_file: Path, adapter: Path | None = None
) -> Traced:
    """The graphs of a train step.

    `stored`: the tensors of the model's files, None for a model that begins without files; `adapter`: what it begins
    with.
    Raises RunError E406 when the model can't be built, E408 when it can't be traced.
    """
    head = tasks.module_of(step.task).head(step.task)
    with weightless(), quiet():
        loaded, names = build(folder, head, stored)
        values = partial(stored_value, () if stored is None else weight_files(folder), names)
        wrapped = wrap(step, loaded, init_file, values, adapter=adapter)
    if step.precision == "bf16":
        _cast(wrapped.model, torch.bfloat16)
    objective = Objective(step, wrapped.model, embedding_noise(step, wrapped.inner))
    inputs = inputs_of(step.task, wrapped.inner, packed=step.packing != "none")
    objective.train()
    for module in resting_modules(wrapped.inner, step.method):
        module.eval()
    train = graph_of(_training(objective, inputs), inputs, "inner.model")
    plain = inputs_of(step.task, wrapped.inner)
    evaluate = graph_of(_training(objective.eval(), plain), plain, "inner.model")
    return Traced(
        model=wrapped.model,
        last_layer=wrapped.last_layer,
        train=train,
        evaluate=evaluate,
        names=names,
        values=wrapped.values,
        places=places_of(wrapped),
        head=wrapped.head,
    )


def trace_saved(
    folder: Path,
    task: Task,
    stored: Mapping[str, Stored],
    adapter: Path | None = None,
    *,
    dtype: str = "float32",
    whole: bool = False,
) -> tuple[Graph, Mapping[str, str]]:
    """The graph of a saved model's outputs, with an adapter on it where there is one; and the files' names.

    `dtype`: what it computes in; the outputs are float32. `whole`: the outputs are all logits.
    """
    head = tasks.module_of(task).head(task)
    with weightless(), quiet():
        loaded, names = build(folder, head, stored)
        model: nn.Module = loaded.model
        if adapter is not None:
            import peft

            wrapped = peft.get_peft_model(loaded.model, peft.PeftConfig.from_pretrained(str(adapter)))
            model = answering_for_rows(cast(peft.PeftModel, wrapped))
    inputs, reading = inputs_of(task, loaded.model), "logits" if whole else head.reading
    if reading == "logits":
        del inputs[TARGETS]  # nothing reads them
    floating = getattr(torch, dtype)
    if dtype != "float32":
        _cast(model, floating)
    model.eval()

    def call(given: dict[str, Tensor]) -> dict[str, Tensor]:
        targets = given.pop(TARGETS, torch.zeros(()))
        cast = {name: value.to(floating) if value.is_floating_point() else value for name, value in given.items()}
        logits = results_of(model(**cast, **head.arguments), head.results).float()
        return {"outputs": read_outputs(reading, logits, targets)}

    return graph_of(flat(model, inputs, call), inputs, "inner"), names


def build(folder: Path, head: Head, stored: Mapping[str, Stored] | None) -> tuple[Loaded, Mapping[str, str]]:
    """The model of a folder with a task's head, without weights; and from the files' names to the model's.

    A model that begins without files lacks nothing.

    Raises RunError E406 when transformers can't build it, or when the files lack weights below the head.
    """
    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, **head.config)
        create = getattr(transformers, head.auto_class).from_config
        model: PreTrainedModel = create(config, dtype=torch.float32)
        if computed_parameters(model):
            with weighty():
                compute_buffers(model, create(config, dtype=torch.float32))
    except Exception as error:  # transformers and its configurations raise errors of many libraries
        reason = first_line(error)
        hint = "its config.json must be of an architecture that transformers has"
        raise RunError("E406", f"transformers can't build the model: {reason}", hint) from error
    if stored is None:
        return Loaded(model=model, head=head_of(model, ()), missing=()), {}
    names = names_in_model(model, stored)
    shapes = {names.get(name, name): tensor.shape for name, tensor in stored.items()}
    missing = [name for name, value in model.named_parameters() if shapes.get(name) != tuple(value.shape)]
    return Loaded(model=model, head=head_of(model, missing), missing=tuple(sorted(missing))), names


def inputs_of(task: Task, model: PreTrainedModel, *, packed: bool = False) -> dict[str, Input]:
    """The inputs that a model is given, by their columns, and the targets."""
    columns = tasks.module_of(task).columns(task, 0)
    named = {
        column.name: Input(dtype=column.batch_dtype, axes=("batch", *((column.axis,) if column.axis else column.shape)))
        for column in (packed_columns(columns) if packed else columns)
    }
    if any(TOKENS in given.axes for given in named.values()):
        named["attention_mask"] = Input(dtype="int64", axes=("batch", TOKENS))
    if packed:
        del named["attention_mask"]  # made of the segments
    kept = {*input_names(model, named), TARGETS, SEGMENTS}
    return {name: given for name, given in named.items() if name in kept}


def graph_of(module: nn.Module, inputs: Mapping[str, Input], root: str) -> Graph:
    """The graph of a module, its parameters named from `root`. Raises RunError E408 with what can't be traced."""
    try:
        return simplify(trace(module, inputs, root=root))
    except TraceError as error:
        hint = "run it on PyTorch: --runtime pytorch; and please report it with the model's config.json"
        raise RunError("E408", f"the model does not trace: {error}", hint) from error


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Parameters in another dtype; buffers keep theirs: rotary frequencies in bfloat16 would turn long rows astray."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def save(traced: Traced, head: Head, values: Mapping[str, Array], out: Path) -> None:
    """Writes a model without weights as its library reads it, with these values by the names of its parameters."""
    model = traced.model
    places = _places(model)
    parameters: dict[str, nn.Parameter] = {}
    for name, value in values.items():
        whole = np.ascontiguousarray(value).reshape(value.shape)  # numpy would make a list of a single number
        parameter = nn.Parameter(torch.from_numpy(whole), requires_grad=False)
        for module, own in places.get(name, ()):
            parameters[name] = module._parameters[own] = parameter  # noqa: SLF001  (the one place where it is replaced)
        if name not in places:
            place, _, own = name.rpartition(".")
            model.get_submodule(place)._buffers[own] = parameter.data  # noqa: SLF001
    with folded(parameters, traced.last_layer, head):
        save_pretrained(model, out)


def _places(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Where each parameter is, by its first name: in several modules where it is tied."""
    first: dict[int, str] = {}
    found: dict[str, list[tuple[nn.Module, str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        place, _, own = name.rpartition(".")
        found.setdefault(known, []).append((model.get_submodule(place), own))
    return found
