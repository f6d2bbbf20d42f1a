"""The head's last layer: where a task's scale and shift go, so that a saved model answers in the targets' unit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from runtimes.errors import RunError
from runtimes.tasks import Head

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The names of its parameters."""

    weight: str
    bias: str | None


def last_layer(model: nn.Module, modules: Sequence[str], head: Head) -> LastLayer | None:
    """The last linear layer of the head, which is in these modules; None where the task folds nothing into it.

    Raises RunError E406 when there is none, or when it lacks the bias that a shift goes into.
    """
    if {*head.scale} == {1.0} and not any(head.shift):
        return None
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == head.num_outputs
        and any(name == top or name.startswith(f"{top}.") for top in modules)
    ]
    if not linear:
        raise RunError("E406", "the model's head has no linear layer at its end", "choose another model")
    has_bias = model.get_submodule(linear[-1]).bias is not None
    if any(head.shift) and not has_bias:
        raise RunError("E406", "the model's head has no bias to put the mean on", 'set "mean": 0 in the task')
    return LastLayer(f"{linear[-1]}.weight", f"{linear[-1]}.bias" if has_bias else None)


def of_outputs(numbers: tuple[float, ...], like: Tensor, axis: int = 0) -> float | Tensor:
    """The number of all outputs; or one for each, along the axis of a tensor that has the outputs there."""
    if len(numbers) == 1:
        return numbers[0]
    shape = [1] * like.ndim
    shape[axis] = len(numbers)
    return torch.tensor(numbers, dtype=like.dtype).reshape(shape).to(like.device, non_blocking=True)


@contextlib.contextmanager
def folded(parameters: Mapping[str, Tensor], layer: LastLayer | None, head: Head) -> Iterator[None]:
    """Inside, outputs are raw outputs * scale + shift; afterwards the weights are what they were, to the bit."""
    if layer is None:
        yield
        return
    values = [parameters[name] for name in (layer.weight, layer.bias) if name is not None]
    kept = [value.detach().clone() for value in values]
    with torch.no_grad():
        for value in values:
            value.mul_(of_outputs(head.scale, value))
        if layer.bias is not None:
            bias = parameters[layer.bias]
            bias.add_(of_outputs(head.shift, bias))
    try:
        yield
    finally:
        with torch.no_grad():
            for value, before in zip(values, kept, strict=True):
                value.copy_(before)


def unfolded(values: Mapping[str, Array], layer: LastLayer | None, head: Head) -> Mapping[str, Array]:
    """The values that a head has while it is trained, of those that were saved: the inverse of `folded`."""
    if layer is None or layer.weight not in values:
        return values
    weight = torch.from_numpy(values[layer.weight])
    found = {layer.weight: (weight / of_outputs(head.scale, weight)).numpy()}
    if layer.bias is not None:
        bias = torch.from_numpy(values[layer.bias])
        found[layer.bias] = ((bias - of_outputs(head.shift, bias)) / of_outputs(head.scale, bias)).numpy()
    return {**values, **found}
