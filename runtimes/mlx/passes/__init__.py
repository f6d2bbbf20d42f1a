"""Passes: functions from graph to graph, one in each file."""

from __future__ import annotations

from runtimes.mlx.graph import Graph
from runtimes.mlx.passes.dead_code import remove_dead_code
from runtimes.mlx.passes.folding import fold_constants
from runtimes.mlx.passes.grouped_heads import share_grouped_heads
from runtimes.mlx.passes.identities import remove_identities
from runtimes.mlx.passes.rms_norm import fuse_rms_norm

PASSES = (
    remove_dead_code,
    remove_identities,
    fuse_rms_norm,
    share_grouped_heads,
    fold_constants,
    remove_dead_code,  # what the others left without a reader
)


def simplify(graph: Graph) -> Graph:
    """The graph that is run: the same results by fewer operations."""
    for apply in PASSES:
        graph = apply(graph)
    return graph
