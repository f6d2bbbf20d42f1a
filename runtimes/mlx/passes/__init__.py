"""Passes: functions from graph to graph, one in each file, in the order in which they are applied."""

from __future__ import annotations

from runtimes.mlx.graph import Graph
from runtimes.mlx.passes.dead_code import remove_dead_code
from runtimes.mlx.passes.folding import fold_constants
from runtimes.mlx.passes.identities import remove_identities
from runtimes.mlx.passes.rms_norm import fuse_rms_norm


def simplify(graph: Graph) -> Graph:
    """The graph that is run: the same results by fewer operations."""
    return remove_dead_code(fold_constants(fuse_rms_norm(remove_identities(remove_dead_code(graph)))))
