"""Dead code: nodes that no output and no changed buffer depends on."""

from __future__ import annotations

from dataclasses import replace

from runtimes.mlx.graph import Graph


def remove_dead_code(graph: Graph) -> Graph:
    """The graph without nodes that nothing reads: asserts, checks of metadata, unread results.

    A changed buffer is a result: what computes it stays, although no output depends on it. Parameters, buffers and
    inputs stay as well: they are the graph's signature. Constants that nothing reads go.
    """
    live = set(graph.results)
    kept = []
    for node in reversed(graph.nodes):
        if node.name in live:
            live.update(node.operands)
            kept.append(node)
    constants = {name: constant for name, constant in graph.constants.items() if name in live}
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)
