"""Grouped heads: attention reads keys and values that several heads share as they are.

Models repeat them for each head first (`repeat_kv`); MLX's attention needs no copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runtimes.mlx.graph import Argument, Graph, Node, Ref

_VIEWS = frozenset({"aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"})
_ATTENTION = "aten.scaled_dot_product_attention.default"


def share_grouped_heads(graph: Graph) -> Graph:
    """The graph with attention over keys and values before they were repeated, where both were.

    Head h of the queries read head h // groups of the repeated ones, and reads it now: the result is the same.
    """
    nodes = {node.name: node for node in graph.nodes}
    return replace(graph, nodes=tuple(_shared(node, nodes) for node in graph.nodes))


def _shared(node: Node, nodes: Mapping[str, Node]) -> Node:
    match node:
        case Node(op=op, args=(queries, Ref() as keys, Ref() as values, *rest)) if op == _ATTENTION:
            before = (_before_repeat(keys, nodes), _before_repeat(values, nodes))
            if None not in before:
                return replace(node, args=(queries, *before, *rest), kwargs={**node.kwargs, "enable_gqa": True})
    return node


def _before_repeat(ref: Ref, nodes: Mapping[str, Node]) -> Argument:
    """What was given a new axis behind its heads, repeated along it, and had both axes made one; else None."""
    match nodes.get(ref.name):
        case Node(op=op, args=(Ref() as wide, (_, _, _, _))) if op in _VIEWS:
            match nodes.get(wide.name):
                case Node(op="aten.expand.default", args=(Ref() as five, (_, _, _, _, _))):
                    match nodes.get(five.name):
                        case Node(op="aten.unsqueeze.default", args=(Ref() as inner, 2)):
                            return inner
    return None
