"""Frozen linear weights become codes of a few bits, with a scale and a bias for each group of inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from compiler.groups import is_in_layer
from runtimes.mlx.graph import Graph, Node, Parameter, Ref

OP = "mlx.quantized_linear"
UNTRAINED = "mlx.quantized_product"
"""The same, where nothing is differentiated."""
SCALES, BIASES = ".scales", ".biases"  # behind the name of the weight, which the codes keep
LINEAR = "aten.linear.default"


def linear_weights(graph: Graph) -> tuple[str, ...]:
    """The frozen weights inside the numbered layers that linear products read, and nothing else does."""
    candidates = {
        name
        for name, own in graph.parameters.items()
        if not own.requires_grad and len(own.shape) == 2 and is_in_layer(name) and name not in graph.tied.values()
    }
    products = {weight for node in graph.nodes if (weight := _weight(node)) is not None}
    others = {name for node in graph.nodes for name in _other_operands(node)} | set(graph.results)
    return tuple(name for name in graph.parameters if name in (candidates & products) - others)


def quantize_linear(graph: Graph, weights: Collection[str], *, bits: int, group_size: int) -> Graph:
    """The graph with these weights, all of them among `linear_weights`, as codes, scales and biases."""
    parameters: dict[str, Parameter] = {}
    for name, own in graph.parameters.items():
        if name not in weights:
            parameters[name] = own
            continue
        outputs, inputs = own.shape
        parameters[name] = replace(own, dtype="uint32", shape=(outputs, inputs * bits // 32))
        groups = replace(own, shape=(outputs, inputs // group_size))
        parameters |= {name + SCALES: groups, name + BIASES: groups}
    nodes = (_quantized(node, weights, bits, group_size) for node in graph.nodes)
    return replace(graph, parameters=parameters, nodes=tuple(nodes))


def untrained(graph: Graph) -> Graph:
    """The graph with products that have no gradients."""
    nodes = (replace(node, op=UNTRAINED) if node.op == OP else node for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _quantized(node: Node, weights: Collection[str], bits: int, group_size: int) -> Node:
    weight = _weight(node)
    if weight is None or weight not in weights:
        return node
    held = (Ref(weight), Ref(weight + SCALES), Ref(weight + BIASES))
    return replace(
        node,
        op=OP,
        args=(node.args[0], *held, *node.args[2:]),
        kwargs={**node.kwargs, "bits": bits, "group_size": group_size},
    )


def _weight(node: Node) -> str | None:
    """The name of the weight of a linear product."""
    match node.args:
        case (_, Ref(name), *_) if node.op == LINEAR:
            return name
        case _:
            return None


def _other_operands(node: Node) -> Iterator[str]:
    """What a node reads, but for the weight of a linear product."""
    operands = list(node.operands)
    weight = _weight(node)
    if weight is not None:
        operands.remove(weight)
    yield from operands
