"""What passes share: a graph with names replaced by other values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runtimes.mlx.graph import Argument, Graph, Node, Ref, substituted


def replace_values(graph: Graph, values: Mapping[str, Argument]) -> Graph:
    """The graph without the named nodes, with values in their place; a value may name another replaced node."""

    def value(ref: Ref) -> Argument:
        found = values.get(ref.name, ref)
        return found if found == ref else substituted(found, value)

    return replace(
        graph,
        nodes=tuple(_with(node, value) for node in graph.nodes if node.name not in values),
        outputs={name: substituted(result, value) for name, result in graph.outputs.items()},
        mutated={name: substituted(result, value) for name, result in graph.mutated.items()},
    )


def _with(node: Node, value: object) -> Node:
    assert callable(value)
    kwargs = {name: substituted(argument, value) for name, argument in node.kwargs.items()}
    return replace(node, args=tuple(substituted(argument, value) for argument in node.args), kwargs=kwargs)
