"""From a torch module to a graph; nothing else of this back end knows torch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from runtimes.mlx.graph import Graph, Input
from runtimes.mlx.trace.convert import to_graph
from runtimes.mlx.trace.export import export
from runtimes.mlx.trace.fakes import TraceError, weightless
from runtimes.mlx.trace.names import names_in_model

__all__ = ["TraceError", "names_in_model", "trace", "weightless"]


def trace(objective: nn.Module, inputs: Mapping[str, Input], *, root: str = "") -> Graph:
    """What an objective computes, in the modes (training or evaluation) that its modules are in.

    The objective's `forward` takes the inputs by name and returns a tensor, or a tuple or dict of tensors. Parameters
    need no values; buffers do, unless a file will hold them. `root`: the submodule that names are relative to, so that
    parameters are called as in its files. Raises TraceError when torch can't trace it for every size of its axes.
    """
    return to_graph(export(objective, inputs), objective, inputs, root)
