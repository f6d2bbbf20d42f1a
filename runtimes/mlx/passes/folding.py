"""Constant folding: what is known before the graph runs is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np

from runtimes.mlx.graph import Constant, Graph, Node
from runtimes.mlx.lower import array_of, value_of
from runtimes.mlx.ops import DRAWING, LOWERINGS

_LARGEST = 1 << 20  # elements; a larger table is cheaper to compute than to hold


def fold_constants(graph: Graph) -> Graph:
    """The graph with constants in place of nodes that read only constants, by the lowerings that would run them."""
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        found = _folded(node, constants)
        if found is None:
            nodes.append(node)
        else:
            constants[node.name] = found
    return replace(graph, constants=constants, nodes=tuple(nodes))


def _folded(node: Node, constants: Mapping[str, Constant]) -> Constant | None:
    if node.op not in LOWERINGS or node.op in DRAWING or node.dtype is None or not _is_small(node):
        return None
    if any(name not in constants for name in node.operands):
        return None
    values = {name: array_of(constants[name]) for name in node.operands}
    result = LOWERINGS[node.op](
        *(value_of(argument, values) for argument in node.args),
        **{name: value_of(argument, values) for name, argument in node.kwargs.items()},
    )
    exact = result.astype(mx.float32) if result.dtype in (mx.bfloat16, mx.float16) else result
    return Constant(dtype=node.dtype, value=np.array(exact))


def _is_small(node: Node) -> bool:
    sizes = [size for size in node.shape or () if isinstance(size, int)]
    return len(sizes) == len(node.shape or ()) and int(np.prod(sizes, dtype=np.int64)) <= _LARGEST
