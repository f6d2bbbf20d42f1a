"""The ONNX writer for encoders: a transformers model becomes one `model.onnx`.

It is transformers' own exporter (`transformers.exporters.OnnxExporter`, which traces with `torch.export`), told what to
trace, kept quiet, cleaned of local paths, and checked afterwards: no dimension may be fixed that should vary, and it
must run at another size than the traced one. Whether it answers rightly is the gate's question.

Two choices were measured, on a 22M-parameter BERT, 200 rows of 3 to 256 tokens, 2 CPU threads:

- attention is traced as `eager`. Every encoder has it (MPNet and DeBERTa have nothing else), and its graph is smaller:
  217 nodes against 288, as the exporter wraps `sdpa` in guards against fully masked rows; `sdpa` took 4 to 8 % longer.
- no `ort_fusions`. They save another 2 to 6 % of the time (onnxruntime fuses all but the attention by itself, on load)
  and leave the difference from torch as it is (7e-7, where float32's own noise is 5e-7), but a fused graph runs on
  onnxruntime only. The plain one uses the standard operator set alone.
"""

# Axes: B = rows, T = tokens

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from transformers import PreTrainedModel

from runtimes.export.facts import ExportFacts
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.onnx_graph import (
    LARGEST_INSIDE,
    Axes,
    check_opset,
    check_runs,
    exported,
    facts,
    name_axes,
    strip,
    write,
)

AXES = ("batch", "sequence")
TRACED_LENGTHS = (11, 7, 4)
"""Tokens of each traced row. Rows and tokens differ in number, and no mask is all ones, else the trace would merge
the two dimensions or drop the mask."""
PROBED_LENGTHS = (5, 3)
"""Tokens of the rows that the written graph must run on: another number of rows, and shorter ones."""


def export(
    model: PreTrainedModel,
    out: Path,
    *,
    opset: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    inside: int = LARGEST_INSIDE,
) -> ExportFacts:
    """Facts about the graph written to `out`, float32; ExportError when there is none.

    Weights of more than `inside` bytes lie in a data file beside it.

    Inputs [batch, sequence] int64: input_ids, attention_mask and, where the model tells segments apart,
    token_type_ids; or, where `shapes` names inputs with the shape of a row in them, those [batch, *shape] float32.
    Outputs are named as the model's own (`logits` of a classifier). `out` appears whole or not at all.
    """
    inputs = _inputs(model, TRACED_LENGTHS, shapes)
    axes: dict[str, Axes] = {name: (AXES[0], *(shapes or {}).get(name, AXES[1:])) for name in inputs}
    graph, probe = _trace(model, inputs, axes, opset), _inputs(model, PROBED_LENGTHS, shapes)
    return write_probed(graph, axes, out, opset, probe, inside=inside)


def write_probed(
    graph: onnx_ir.Model,
    axes: Mapping[str, Axes],
    out: Path,
    opset: int | None,
    probe: Mapping[str, torch.Tensor],
    *,
    inside: int = LARGEST_INSIDE,
) -> ExportFacts:
    """Facts about a graph that is written to `out` once it has run on the inputs `probe`."""
    name_axes(graph, axes)
    strip(graph)
    check_opset(graph, opset)
    num_bytes = write(graph, out, lambda file: check_runs(file, probe), inside=inside)
    return facts(graph, num_bytes=num_bytes)


def _inputs(
    model: PreTrainedModel, row_lengths: Sequence[int], shapes: Mapping[str, tuple[int, ...]] | None
) -> dict[str, torch.Tensor]:
    """A batch to trace with: a row for each length, of tokens or of the shapes given."""
    if not shapes:
        return trace_inputs(model, row_lengths)
    return {
        name: torch.linspace(-1, 1, len(row_lengths) * prod(shape)).reshape(-1, *shape)
        for name, shape in shapes.items()
    }


def trace_inputs(model: PreTrainedModel, row_lengths: Sequence[int] = TRACED_LENGTHS) -> dict[str, torch.Tensor]:
    """A batch to trace with, int64 [B, T]: rows of these lengths, padded on the right, of two segments."""
    num_tokens = len(model.get_input_embeddings().get_parameter("weight"))
    pad = model.config.pad_token_id or 0
    lengths = torch.tensor(row_lengths)[:, None]
    places = torch.arange(max(row_lengths))[None, :]
    mask = (places < lengths).long()
    ids = (pad + 1 + places + lengths) % num_tokens
    values = {
        "input_ids": torch.where(mask.bool(), ids, pad),
        "attention_mask": mask,
        "token_type_ids": (places >= lengths // 2).long() * mask,
    }
    return {name: values[name] for name in input_names(model)}


def _trace(
    model: PreTrainedModel, inputs: dict[str, Any], axes: Mapping[str, Axes], opset: int | None
) -> onnx_ir.Model:
    """The exporter's graph.

    The batch is one symbol over all inputs, by its name. torch infers the other axis, whose upper bound (the number of
    positions) only the model knows.
    """
    batch = torch.export.Dim(AXES[0])
    dims = {
        name: {0: batch, **({1: torch.export.Dim.AUTO} if AXES[1] in named else {})} for name, named in axes.items()
    }
    model.config.output_attentions = model.config.output_hidden_states = model.config.use_cache = False
    return exported(model, type(model).__name__, inputs, dims, opset)
