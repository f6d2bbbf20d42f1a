"""A graph in segments, so that a numbered layer can be run as one function, and computed again for its gradients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runtimes.mlx.graph import Graph, Node

_LAYER = re.compile(r"(?:.*?\.)??\d+(?=\.|$)")  # up to the first number: model.layers.3, of model.layers.3.mlp


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Nodes that follow each other, all of one layer or all outside of layers; and what flows through them."""

    layer: str  # the path of the layer; empty outside of layers, and where the segment can't be computed again
    nodes: tuple[Node, ...]
    differentiated: tuple[str, ...]  # what it reads and gradients flow to: trained parameters, and what depends on them
    fixed: tuple[str, ...]  # what else it reads: frozen parameters, constants, inputs
    results: tuple[str, ...]  # what later segments read, or the graph gives back


def has_layers(graph: Graph) -> bool:
    """Whether there is a numbered layer in a graph."""
    return any(_layer(node) for node in graph.nodes)


def unsplit(graph: Graph) -> Segment:
    """All of a graph."""
    return _segment("", graph.nodes, _differentiated(graph), set(graph.results))


def split_at_layers(graph: Graph) -> tuple[Segment, ...]:
    """The nodes of a graph in segments, in order.

    A layer that a model runs several times, as ALBERT does, is a segment each time. Sizes are computed before all
    else: they are no arrays, so that a segment can't give them back.
    """
    sizes, rest = _sizes_first(graph)
    runs = [("", sizes), *_runs(rest, graph)]
    flowing = _differentiated(graph)
    read_later = set(graph.results)
    found: list[Segment] = []
    for layer, nodes in reversed(runs):
        found.append(_segment(layer, nodes, flowing, read_later))
        read_later.update(name for node in nodes for name in node.operands)
    return tuple(reversed(found))


def _segment(layer: str, nodes: Sequence[Node], flowing: set[str], read_later: set[str]) -> Segment:
    made = {node.name for node in nodes}
    read = dict.fromkeys(name for node in nodes for name in node.operands if name not in made)
    results = tuple(node for node in nodes if node.name in read_later)
    return Segment(
        layer=layer if all(node.dtype is not None for node in results) else "",
        nodes=tuple(nodes),
        differentiated=tuple(name for name in read if name in flowing),
        fixed=tuple(name for name in read if name not in flowing),
        results=tuple(node.name for node in results),
    )


def _sizes_first(graph: Graph) -> tuple[list[Node], list[Node]]:
    """The nodes that compute sizes of inputs from nothing else, and the others."""
    known = set(graph.inputs)
    sizes: list[Node] = []
    rest: list[Node] = []
    for node in graph.nodes:
        is_size = node.dtype is None and node.operands and known.issuperset(node.operands)
        (sizes if is_size else rest).append(node)
        if is_size:
            known.add(node.name)
    return sizes, rest


def _runs(nodes: Iterable[Node], graph: Graph) -> Iterator[tuple[str, list[Node]]]:
    """Neighbours of one layer, until a parameter is read once more."""
    layer, run, seen = "", list[Node](), set[str]()
    for node in nodes:
        own = _layer(node)
        parameters = {name for name in node.operands if name in graph.parameters}
        if run and (own != layer or (own and seen & parameters)):
            yield layer, run
            run, seen = [], set()
        layer = own
        run.append(node)
        seen |= parameters
    yield layer, run


def _layer(node: Node) -> str:
    """The path of the layer that a node is in."""
    found = _LAYER.match(node.module)
    return found[0] if found else ""


def _differentiated(graph: Graph) -> set[str]:
    """The names of what depends on a trained parameter and has fractions, or parts that may."""
    found = set(graph.trainable)
    for node in graph.nodes:
        if (node.dtype is None or "float" in node.dtype) and not found.isdisjoint(node.operands):
            found.add(node.name)
    return found
