"""From a graph to a function on MLX arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import DTYPES, as_array
from runtimes.mlx.graph import Argument, Constant, Graph, Node, Ref
from runtimes.mlx.ops import DRAWING, LOWERINGS, Lowering

Arrays = Mapping[str, mx.array]
Run = Callable[[Arrays, Arrays, Arrays, mx.array | None], tuple[dict[str, mx.array], dict[str, mx.array]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A node with its lowering, the number of its key, and the names that nothing reads after it."""

    node: Node
    function: Lowering
    draw: int | None
    last_read: tuple[str, ...]


def unlowered(graph: Graph) -> tuple[tuple[str, str], ...]:
    """The operations that have no lowering, each with the modules that use it; none twice.

    Where all have one: those whose result has a shape that depends on values, such as an index by a mask.
    """
    found = {(node.op, node.module) for node in graph.nodes if node.op not in LOWERINGS}
    return tuple(sorted(found or {(node.op, node.module) for node in graph.nodes if node.depends_on_values}))


def lower(graph: Graph) -> Run:
    """The graph as a function of parameters, buffers, inputs and a key to its outputs and its buffers after the step.

    Parameters are taken in any floating dtype and computed with in the graph's. The key decides every mask that the
    graph draws; None will do where it draws none. Raises KeyError for an operation that `unlowered` names.
    """
    steps = _steps(graph)
    constants = {name: array_of(constant) for name, constant in graph.constants.items()}
    num_draws = sum(step.draw is not None for step in steps)

    def run(
        parameters: Arrays, buffers: Arrays, inputs: Arrays, key: mx.array | None
    ) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
        values: dict[str, Any] = {**constants, **buffers}
        values |= {name: as_array(parameters[name], DTYPES[own.dtype]) for name, own in graph.parameters.items()}
        values |= {name: as_array(inputs[name], DTYPES[own.dtype]) for name, own in graph.inputs.items()}
        keys = None if key is None or not num_draws else mx.random.split(key, num_draws)
        for step in steps:
            values[step.node.name] = _apply(step, values, keys)
            for name in step.last_read:
                del values[name]
        return (
            {name: value_of(result, values) for name, result in graph.outputs.items()},
            {**buffers, **{name: value_of(result, values) for name, result in graph.mutated.items()}},
        )

    return run


def _steps(graph: Graph) -> tuple[_Step, ...]:
    """The nodes in order; values are let go after their last use."""
    last = {name: node.name for node in graph.nodes for name in node.operands}
    last |= {node.name: node.name for node in graph.nodes if node.name not in last}
    kept = set(graph.results)
    ends: dict[str, list[str]] = {}
    for name, reader in last.items():
        if name not in kept:
            ends.setdefault(reader, []).append(name)
    draws = iter(range(len(graph.nodes)))
    return tuple(
        _Step(
            node=node,
            function=LOWERINGS[node.op],
            draw=next(draws) if node.op in DRAWING else None,
            last_read=tuple(ends.get(node.name, ())),
        )
        for node in graph.nodes
    )


def _apply(step: _Step, values: Mapping[str, Any], keys: mx.array | None) -> Any:
    args = [value_of(argument, values) for argument in step.node.args]
    kwargs = {name: value_of(argument, values) for name, argument in step.node.kwargs.items()}
    if step.draw is not None:
        args.insert(0, None if keys is None else keys[step.draw])
    return step.function(*args, **kwargs)


def value_of(argument: Argument, values: Mapping[str, Any]) -> Any:
    """The argument with values in place of references."""
    match argument:
        case Ref(name):
            return values[name]
        case tuple():
            return [value_of(part, values) for part in argument]
        case _:
            return argument


def array_of(constant: Constant) -> mx.array:
    """A constant as an array."""
    return mx.array(constant.value).astype(DTYPES[constant.dtype])


Gradients = dict[str, mx.array]
Results = tuple[dict[str, mx.array], dict[str, mx.array]]
Differentiated = Callable[[Arrays, Arrays, Arrays, Arrays, mx.array | None], tuple[Results, Gradients]]


def value_and_grad(run: Run, loss: Callable[[Mapping[str, mx.array]], mx.array]) -> Differentiated:
    """A function of trained and frozen parameters, buffers, inputs and key to the run's results and the gradients.

    Gradients are those of `loss`, a number made of the run's outputs, by each trained parameter.
    """

    def forward(
        trained: dict[str, mx.array], frozen: Arrays, buffers: Arrays, inputs: Arrays, key: mx.array | None
    ) -> tuple[mx.array, Results]:
        outputs, after = run({**frozen, **trained}, buffers, inputs, key)
        return loss(outputs), (outputs, after)

    differentiated = mx.value_and_grad(forward)

    def apply(
        trained: Arrays, frozen: Arrays, buffers: Arrays, inputs: Arrays, key: mx.array | None
    ) -> tuple[Results, Gradients]:
        (_, results), gradients = differentiated(dict(trained), frozen, buffers, inputs, key)
        return results, gradients

    return apply
