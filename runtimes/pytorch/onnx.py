"""The ONNX writer for encoders: a saved transformers model becomes one `model.onnx`.

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

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir
import onnxruntime
import torch
import transformers
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from transformers import PreTrainedModel
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from runtimes.errors import RunError
from runtimes.export.facts import ExportFacts
from runtimes.export.session import session_options
from runtimes.pytorch.inputs import input_names
from runtimes.pytorch.noise import SEQUENCE_CLASSIFIER, SourceError, first_line, load_source
from runtimes.pytorch.quiet import quiet

AXES = ("batch", "sequence")
TRACED_LENGTHS = (11, 7, 4)
"""Tokens of each traced row. Rows and tokens differ in number, and no mask is all ones, else the trace would merge
the two dimensions or drop the mask."""
PROBED_LENGTHS = (5, 3)
"""Tokens of the rows that the written graph must run on: another number of rows, and shorter ones."""
UNTRACEABLE = "torch.export can't trace this architecture for every size; please report it with its config.json"
LARGEST_FILE = 2**31 - 1
"""Bytes that one ONNX file can hold: protobuf's limit."""


class ExportError(RunError):
    """A model could not be exported."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E501", message, hint)


def export(
    model_folder: Path, out: Path, *, opset: int | None = None, auto_class: str = SEQUENCE_CLASSIFIER
) -> ExportFacts:
    """Facts about the graph written to `out`, float32, its weights inside; ExportError when there is none.

    Inputs [batch, sequence] int64: input_ids, attention_mask and, where the model tells segments apart,
    token_type_ids. Outputs are named as the model's own (`logits` of a classifier). `out` appears whole or not at all.
    """
    try:
        model = load_source(model_folder, auto_class=auto_class, attention="eager")
    except SourceError as error:
        raise ExportError(error.message, error.hint) from error
    graph = _trace(model, opset)
    _name_axes(graph)
    _strip(graph)
    _check_opset(graph, opset)
    _check_size(graph)
    with _new_file(out) as file:
        file.write_bytes(onnx_ir.to_proto(graph).SerializeToString(deterministic=True))
        _check_runs(file, trace_inputs(model, PROBED_LENGTHS))
    return _facts(graph, num_bytes=out.stat().st_size)


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


def _trace(model: PreTrainedModel, opset: int | None) -> onnx_ir.Model:
    """The exporter's graph.

    The batch is one symbol over all inputs, by its name. torch infers the other axis, whose upper bound (the number of
    positions) only the model knows.
    """
    inputs: dict[str, Any] = dict(trace_inputs(model))
    axes = {0: torch.export.Dim(AXES[0]), 1: torch.export.Dim.AUTO}
    config = OnnxConfig(dynamic=True, dynamic_shapes=dict.fromkeys(inputs, axes), opset_version=opset)
    model.config.output_attentions = model.config.output_hidden_states = model.config.use_cache = False
    with quiet():
        try:
            exported = OnnxExporter().export(model, inputs, config)  # type: ignore[no-untyped-call]
        except Exception as error:  # the exporter is five libraries deep and their errors share no base
            message = f"{type(model).__name__} does not export: {first_line(error)}"
            raise ExportError(message, UNTRACEABLE) from error
    graph: onnx_ir.Model = exported.program
    return graph


def _name_axes(graph: onnx_ir.Model) -> None:
    """Names the traced symbols (`s18`) batch and sequence, wherever they stand; ExportError when one is a number."""
    names: dict[str, str] = {}
    for value in graph.graph.inputs:
        for axis, dim in zip(AXES, value.shape or (), strict=True):
            if isinstance(dim, int):
                raise ExportError(
                    f"the {axis} axis of {value.name} was fixed at {dim} by the model's code", UNTRACEABLE
                )
            names[str(dim.value)] = axis
    symbol = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in _values(graph):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([_renamed(dim, symbol, names) for dim in value.shape])


def _renamed(
    dim: int | onnx_ir.SymbolicDim, symbol: re.Pattern[str], names: dict[str, str]
) -> int | onnx_ir.SymbolicDim:
    if isinstance(dim, int) or dim.value is None:
        return dim
    return onnx_ir.SymbolicDim(symbol.sub(lambda match: names[match[1]], str(dim.value)))


def _strip(graph: onnx_ir.Model) -> None:
    """Takes out the traces of where and how it was made: stack traces hold local paths, and make bytes differ."""
    ClearMetadataAndDocStringPass()(graph)
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()
    for value in _values(graph):
        value.metadata_props.clear()
        value.doc_string = None


def _values(graph: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    for part in graph.graphs():
        yield from part.inputs
        yield from part.initializers.values()
    for node in graph.graph.all_nodes():
        yield from node.outputs


def _check_opset(graph: onnx_ir.Model, opset: int | None) -> None:
    if opset is not None and graph.opset_imports[""] != opset:
        raise ExportError(f"asked for opset {opset}, the exporter wrote opset {graph.opset_imports['']}")


def _check_size(graph: onnx_ir.Model) -> None:
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)
    if size > LARGEST_FILE:
        raise ExportError(f"{size / 2**30:.1f} GiB of weights do not fit in one ONNX file, which holds 2 GiB")


def _check_runs(file: Path, inputs: Mapping[str, torch.Tensor]) -> None:
    """Some models read a length as a plain number (Funnel), which goes into the graph unseen by torch."""
    try:
        session = onnxruntime.InferenceSession(file, session_options(1), providers=["CPUExecutionProvider"])
        session.run(None, {name: values.numpy() for name, values in inputs.items()})
    except Exception as error:  # onnxruntime's errors share no base
        raise ExportError(
            f"the graph runs only at the size it was traced with: {first_line(error)}", UNTRACEABLE
        ) from error


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A neighbour to write and check, which takes the name `path` when the block ends well."""
    neighbour = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield neighbour
        with neighbour.open("rb+") as file:
            os.fsync(file.fileno())
        neighbour.replace(path)
    except OSError as error:
        raise ExportError(f"{path} can't be written: {error}") from error
    finally:
        neighbour.unlink(missing_ok=True)


def _facts(graph: onnx_ir.Model, *, num_bytes: int) -> ExportFacts:
    nodes = list(graph.graph.all_nodes())
    custom = Counter(f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in ("", "ai.onnx"))
    return ExportFacts(
        exporter="transformers.exporters.OnnxExporter",
        versions=_versions(),
        opset=graph.opset_imports[""],
        inputs=tuple(str(value.name) for value in graph.graph.inputs),
        outputs=tuple(str(value.name) for value in graph.graph.outputs),
        num_bytes=num_bytes,
        num_nodes=len(nodes),
        custom_operators=tuple(sorted(custom.items())),
    )


def _versions() -> tuple[tuple[str, str], ...]:
    modules = (("onnx_ir", onnx_ir), ("torch", torch), ("transformers", transformers))
    return tuple((name, str(module.__version__)) for name, module in modules)
