"""From a graph to a function on MLX arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx

from runtimes.mlx.dtypes import DTYPES, as_array
from runtimes.mlx.graph import Argument, Constant, Graph, Node, Ref
from runtimes.mlx.ops import DRAWING, LOWERINGS, Lowering
from runtimes.mlx.segments import Segment, split_at_layers, unsplit

Arrays = Mapping[str, mx.array]
_KEYS = "keys"  # of the masks, among what flows into a layer; nodes have names with %, parameters with dots
Run = Callable[[Arrays, Arrays, Arrays, mx.array | None], tuple[dict[str, mx.array], dict[str, mx.array]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A node with its lowering, the number of its key, and the names that nothing reads after it."""

    node: Node
    function: Lowering
    draw: int | None
    last_read: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A segment with its steps, and the names that nothing reads after it."""

    segment: Segment
    steps: tuple[_Step, ...]
    last_read: tuple[str, ...]


def unlowered(graph: Graph) -> tuple[tuple[str, str], ...]:
    """The operations that have no lowering, each with the modules that use it; none twice.

    Where all have one: those whose result has a shape that depends on values, such as an index by a mask.
    """
    found = {(node.op, node.module) for node in graph.nodes if node.op not in LOWERINGS}
    return tuple(sorted(found or {(node.op, node.module) for node in graph.nodes if node.depends_on_values}))


def lower(graph: Graph, *, recompute_layers: bool = False) -> Run:
    """The graph as a function of parameters, buffers, inputs and a key to its outputs and its buffers after the step.

    Parameters are taken in any floating dtype and computed with in the graph's. The key decides every mask that the
    graph draws; None will do where it draws none. `recompute_layers`: what gradients need of the inside of a numbered
    layer is computed again from what flows into it, instead of kept. Raises KeyError for an operation that `unlowered`
    names.
    """
    parts = _parts(graph, split_at_layers(graph) if recompute_layers else (unsplit(graph),))
    constants = {name: array_of(constant) for name, constant in graph.constants.items()}
    num_draws = sum(step.draw is not None for part in parts for step in part.steps)

    def run(
        parameters: Arrays, buffers: Arrays, inputs: Arrays, key: mx.array | None
    ) -> tuple[dict[str, mx.array], dict[str, mx.array]]:
        values: dict[str, Any] = {**constants, **buffers}
        values |= {name: as_array(parameters[name], DTYPES[own.dtype]) for name, own in graph.parameters.items()}
        values |= {name: as_array(inputs[name], DTYPES[own.dtype]) for name, own in graph.inputs.items()}
        keys = None if key is None or not num_draws else mx.random.split(key, num_draws)
        for part in parts:
            if part.segment.layer and part.segment.differentiated:
                values |= _recomputed(part, values, keys)
                for name in part.last_read:
                    del values[name]
            else:
                _compute(part.steps, values, keys)
        return (
            {name: value_of(result, values) for name, result in graph.outputs.items()},
            {**buffers, **{name: value_of(result, values) for name, result in graph.mutated.items()}},
        )

    return run


def _parts(graph: Graph, segments: Sequence[Segment]) -> tuple[_Part, ...]:
    """The segments in order; values are let go after their last use."""
    nodes = [node for segment in segments for node in segment.nodes]
    last = {name: node.name for node in nodes for name in node.operands}
    last |= {node.name: node.name for node in nodes if node.name not in last}
    kept = set(graph.results)
    ends: dict[str, list[str]] = {}
    for name, reader in last.items():
        if name not in kept:
            ends.setdefault(reader, []).append(name)
    draws = iter(range(len(nodes)))
    return tuple(_part(segment, ends, draws) for segment in segments)


def _part(segment: Segment, ends: Mapping[str, Sequence[str]], draws: Iterator[int]) -> _Part:
    steps = tuple(
        _Step(
            node=node,
            function=LOWERINGS[node.op],
            draw=next(draws) if node.op in DRAWING else None,
            last_read=tuple(ends.get(node.name, ())),
        )
        for node in segment.nodes
    )
    outside = {*segment.differentiated, *segment.fixed}
    return _Part(
        segment=segment,
        steps=steps,
        last_read=tuple(name for step in steps for name in step.last_read if name in outside),
    )


def _compute(steps: Iterable[_Step], values: dict[str, Any], keys: mx.array | None) -> None:
    """Adds the results of steps to the values, and drops what nothing reads after them."""
    for step in steps:
        values[step.node.name] = _apply(step, values, keys)
        for name in step.last_read:
            del values[name]


def _recomputed(part: _Part, values: Mapping[str, Any], keys: mx.array | None) -> dict[str, Any]:
    """The results of a layer, of which only these and what flows in are kept until its gradients are wanted.

    All arrays that flow in are arguments, keys too, so that the same masks are drawn twice: what the layer found
    elsewhere, the compiler would compute once for both times, and keep.
    """
    segment = part.segment
    given = {name: values[name] for name in (*segment.differentiated, *segment.fixed)}
    if keys is not None:
        given[_KEYS] = keys
    numbers = {name: value for name, value in given.items() if not isinstance(value, mx.array)}
    names = [name for name in given if name not in numbers]

    def layer(arrays: Sequence[mx.array]) -> list[mx.array]:
        inside = {**numbers, **dict(zip(names, arrays, strict=True))}
        _compute(part.steps, inside, inside.get(_KEYS))
        return [inside[name] for name in segment.results]

    num_differentiated = sum(name in names for name in segment.differentiated)
    found = recomputed(layer, num_differentiated)([given[name] for name in names])
    return dict(zip(segment.results, found, strict=True))


Layer = Callable[[Sequence[mx.array]], list[mx.array]]


def recomputed(layer: Layer, num_differentiated: int) -> Layer:
    """A function that computes the same, and again for its gradients, those by the first arrays alone.

    `mx.checkpoint` does so for all, which fails for some (quantized weights, indices), and may begin long
    before the gradients are wanted: MLX decides the order. Here it waits for the gradients that flow in.
    """
    function = mx.custom_function(layer)

    @function.vjp
    def gradients(
        primals: Sequence[mx.array], cotangents: Sequence[mx.array], outputs: Sequence[mx.array]
    ) -> list[mx.array]:
        held = mx.depends(list(primals), list(cotangents))
        moving, still = held[:num_differentiated], held[num_differentiated:]

        def again(*moving: mx.array) -> list[mx.array]:
            # Under a node of their own: vjp takes no cotangent for a result whose gradient was stopped last.
            results: list[mx.array] = mx.depends(layer([*moving, *still]), [])
            return results

        _, found = mx.vjp(again, moving, list(cotangents))
        # All of a layer's gradients before the next layer begins: until then they hold what they are made of.
        return [*mx.depends(found, found), *(mx.zeros_like(value) for value in still)]

    return cast(Layer, function)


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
