"""What the tests share: an objective on torch and its graph on MLX, side by side."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from torch import nn

from runtimes.groups import Group
from runtimes.mlx.graph import Graph
from runtimes.mlx.lower import lower, value_and_grad
from runtimes.mlx.passes import simplify
from runtimes.mlx.trace import trace, weightless
from tests.conformance.cells import LIMITS, gradient_difference
from tests.runtimes.mlx.architectures import ARCHITECTURES, Objective, Rows

Values = dict[str, np.ndarray[Any, Any]]


@functools.cache
def graph_of(architecture: str, *, training: bool = True) -> Graph:
    """The graph of an architecture without dropout, traced once from a model without weights."""
    with weightless():
        objective = ARCHITECTURES[architecture].build().train(training)
    return simplify(trace(objective, ARCHITECTURES[architecture].inputs, root="model"))


def arrays(values: Mapping[str, Any]) -> dict[str, mx.array]:
    """Values of torch or numpy as arrays of MLX."""
    return {
        name: mx.array(value.detach().numpy() if isinstance(value, torch.Tensor) else value)
        for name, value in values.items()
    }


def parameters_of(graph: Graph, model: nn.Module) -> dict[str, mx.array]:
    """A model's parameters under the graph's names."""
    named = dict(model.named_parameters())
    return arrays({name: named[name] for name in graph.parameters})


def buffers_of(graph: Graph, model: nn.Module) -> dict[str, mx.array]:
    """A model's buffers under the graph's names."""
    named = dict(model.named_buffers())
    return arrays({name: named[name] for name in graph.buffers})


def torch_step(objective: Objective, rows: Rows) -> tuple[dict[str, Any], Values]:
    """Outputs and gradients of torch."""
    objective.zero_grad(set_to_none=True)
    found = objective(**{name: torch.from_numpy(value) for name, value in rows.items()})
    found["loss_sum"].backward()
    gradients = {
        name: value.grad.numpy().copy() for name, value in objective.model.named_parameters() if value.grad is not None
    }
    return {name: value.detach().numpy() for name, value in found.items()}, gradients


def mlx_step(
    graph: Graph, model: nn.Module, rows: Rows, key: int = 0, *, recompute_layers: bool = False
) -> tuple[Values, Values, Values]:
    """Outputs, buffers after the step and gradients of MLX."""
    parameters = parameters_of(graph, model)
    trained = {name: parameters.pop(name) for name in graph.trainable}
    step = value_and_grad(lower(graph, recompute_layers=recompute_layers), lambda outputs: outputs["loss_sum"])
    (outputs, after), gradients = step(trained, parameters, buffers_of(graph, model), arrays(rows), mx.random.key(key))
    return numbers(outputs), numbers(after), numbers(gradients)


def numbers(values: Mapping[str, mx.array]) -> Values:
    """Arrays of MLX as numpy."""
    return {
        name: np.array(value.astype(mx.float32) if value.dtype == mx.bfloat16 else value)
        for name, value in values.items()
    }


def assert_equal_gradients(found: Values, expected: Values) -> None:
    """The same parameters, each gradient close: relative to its largest element, above a floor."""
    assert gradient_difference(found, expected) <= LIMITS["gradients"]


def matrices_decay(parameters: Mapping[str, mx.array], decay: float) -> dict[str, Group]:
    """Groups as a plan has them that says nothing of rates and decays."""
    return {name: Group(weight_decay=decay if value.ndim > 1 else 0.0) for name, value in parameters.items()}
