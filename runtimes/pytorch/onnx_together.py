"""The ONNX writer for encoders of several tasks: one `model.onnx`, in which one trunk has a head for each.

Each task's model is a whole one, as it was saved. They are traced side by side; what they compute alike from the same
weights stands in the graph once afterwards, so that it is not the writer who decides what is shared.
"""

# Axes: B = rows, T = tokens

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import onnx_ir
import torch
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from runtimes.export.facts import ExportFacts
from runtimes.pytorch.onnx import AXES, PROBED_LENGTHS, trace_inputs, write_probed
from runtimes.pytorch.onnx_graph import Axes, exported


class SideBySide(nn.Module):
    """Models of several tasks, all given the same inputs."""

    def __init__(self, models: Mapping[str, PreTrainedModel], names: tuple[str, ...]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models.values())
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        given = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
        type(self).forward.__signature__ = inspect.Signature([own, *given])  # type: ignore[attr-defined]

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The logits of each, [B, C]."""
        return tuple(model(**inputs).logits for model in self.models)


def export_together(models: Mapping[str, PreTrainedModel], out: Path, *, opset: int | None = None) -> ExportFacts:
    """Facts about the graph written to `out`, float32; ExportError when there is none.

    Inputs are those of the models, [batch, sequence] int64; each output has its task's name. `out` appears whole or not
    at all.
    """
    first = next(iter(models.values()))
    inputs = trace_inputs(first)
    axes: dict[str, Axes] = dict.fromkeys(inputs, AXES)
    for model in models.values():
        model.config.output_attentions = model.config.output_hidden_states = model.config.use_cache = False
    batch = torch.export.Dim(AXES[0])
    dims = {name: {0: batch, 1: torch.export.Dim.AUTO} for name in axes}
    graph = exported(SideBySide(models, tuple(inputs)).eval(), type(first).__name__, inputs, dims, opset)
    name_outputs(graph, tuple(models))
    once(graph)
    return write_probed(graph, axes, out, opset, trace_inputs(first, PROBED_LENGTHS))


def once(graph: onnx_ir.Model) -> None:
    """Takes out of a graph what it has several times: weights of equal values, and what is computed of the same."""
    DeduplicateInitializersPass(size_limit=2**40)(graph)
    CommonSubexpressionEliminationPass(size_limit=64)(graph)
    RemoveUnusedNodesPass()(graph)


def name_outputs(graph: onnx_ir.Model, names: tuple[str, ...]) -> None:
    """Gives the outputs these names, and whatever has one of them another."""
    outputs = graph.graph.outputs
    others = (value for node in graph.graph.all_nodes() for value in node.outputs if value not in outputs)
    for value in [*others, *graph.graph.initializers.values()]:
        if value.name in names:
            value.name = f"{value.name}.inside"
    for value, name in zip(outputs, names, strict=True):
        value.name = name
