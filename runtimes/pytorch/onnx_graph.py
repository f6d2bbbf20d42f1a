"""What every ONNX writer does with a graph: names its axes, cleans it, checks it, and writes it whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import onnxruntime
import torch
import transformers
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from transformers.exporters.configs import OnnxConfig
from transformers.exporters.exporter_onnx import OnnxExporter

from runtimes.errors import RunError, first_line
from runtimes.export.facts import ExportFacts, data_file
from runtimes.export.session import session_options
from runtimes.pytorch.quiet import quiet

UNTRACEABLE = "torch.export can't trace this architecture for every size; please report it with its config.json"
LARGEST_INSIDE = 2**30
"""Bytes of weights that are written into the graph's own file, which is read as a whole and, by protobuf, can't hold
2 GiB; a data file is mapped."""
BATCH = "batch_size"
"""The axis of rows in graphs with a cache: by this name transformers.js makes an empty one."""
Axes = tuple[str | int, ...]
"""The axes of an input: a name where the size varies."""


class ExportError(RunError):
    """A model could not be exported."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E501", message, hint)


def exported(
    module: Any, name: str, inputs: Mapping[str, Any], dims: Mapping[str, Mapping[int, Any]], opset: int | None
) -> onnx_ir.Model:
    """The exporter's graph of a module, by example inputs and the dimensions of them that vary.

    Raises ExportError, which calls the model by `name`.
    """
    config = OnnxConfig(dynamic=True, dynamic_shapes=dict(dims), opset_version=opset)
    with quiet():
        try:
            found = OnnxExporter().export(module, dict(inputs), config)  # type: ignore[no-untyped-call]
        except Exception as error:  # the exporter is five libraries deep and their errors share no base
            raise ExportError(f"{name} does not export: {first_line(error)}", UNTRACEABLE) from error
    graph: onnx_ir.Model = found.program
    return graph


def exported_with_cache(
    module: torch.nn.Module, name: str, inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Axes], opset: int | None
) -> onnx_ir.Model:
    """The graph of a module that takes its cache by `identifier`, its inputs and outputs by their names.

    The batch is one symbol over all inputs, by its name; torch infers the others. Raises ExportError.
    """
    batch = torch.export.Dim(BATCH)
    dims = {
        identifier(key): {
            at: batch if axis == BATCH else torch.export.Dim.AUTO
            for at, axis in enumerate(shape)
            if isinstance(axis, str)
        }
        for key, shape in axes.items()
    }
    graph = exported(module.eval(), name, {identifier(key): value for key, value in inputs.items()}, dims, opset)
    for value in (*graph.graph.inputs, *graph.graph.outputs):
        value.name = _dotted(str(value.name))
    return graph


def identifier(name: str) -> str:
    """A name as an argument: torch takes no dots."""
    return name.replace(".", "_")


def _dotted(name: str) -> str:
    """The name that an argument stands for."""
    for prefix in ("past_key_values", "present"):
        if name.startswith(f"{prefix}_"):
            return f"{prefix}.{name.removeprefix(f'{prefix}_').replace('_', '.')}"
    return name


def name_axes(graph: onnx_ir.Model, axes: Mapping[str, Axes]) -> None:
    """Names the traced symbols (`s18`) as the axes of the inputs are, wherever they stand.

    Raises ExportError when an axis that should vary is a number.
    """
    names: dict[str, str] = {}
    for value in graph.graph.inputs:
        for axis, dim in zip(axes[str(value.name)], value.shape or (), strict=True):
            if isinstance(axis, str) and isinstance(dim, int):
                raise ExportError(
                    f"the {axis} axis of {value.name} was fixed at {dim} by the model's code", UNTRACEABLE
                )
            if isinstance(axis, str) and not isinstance(dim, int) and str(dim.value).isidentifier():
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


def strip(graph: onnx_ir.Model) -> None:
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


def check_opset(graph: onnx_ir.Model, opset: int | None) -> None:
    if opset is not None and graph.opset_imports[""] != opset:
        raise ExportError(f"asked for opset {opset}, the exporter wrote opset {graph.opset_imports['']}")


def check_runs(file: Path, inputs: Mapping[str, torch.Tensor]) -> None:
    """Some models read a length as a plain number (Funnel), which goes into the graph unseen by torch."""
    try:
        session = onnxruntime.InferenceSession(file, session_options(1), providers=["CPUExecutionProvider"])
        session.run(None, {name: values.numpy() for name, values in inputs.items()})
    except Exception as error:  # onnxruntime's errors share no base
        raise ExportError(
            f"the graph runs only at the size it was traced with: {first_line(error)}", UNTRACEABLE
        ) from error


def share_embedding(graph: onnx_ir.Model) -> None:
    """Takes out the second copy of an embedding that is the last layer too.

    The exporter transposes the weights of products beforehand; a tied embedding would be in the file twice.
    """
    initializers = graph.graph.initializers
    read = [node.inputs[0] for node in graph.graph if node.op_type == "Gather"]
    tables = {value.name: value for value in read if value is not None and value.name in initializers}
    for name, other in list(initializers.items()):
        table = next((table for table in tables.values() if _is_transposed(table, other)), None)
        if table is None:
            continue
        turned = onnx_ir.node("Transpose", [table], {"perm": [1, 0]})
        [result] = turned.outputs
        result.name, result.shape, result.type = f"{table.name}.transposed", other.shape, other.type
        graph.graph.insert_before(graph.graph[0], turned)
        other.replace_all_uses_with(result)
        del initializers[name]


def _is_transposed(table: onnx_ir.Value, other: onnx_ir.Value) -> bool:
    one, two = table.const_value, other.const_value
    if other is table or one is None or two is None or len(two.shape) != 2:
        return False
    return tuple(two.shape) == tuple(one.shape)[::-1] and np.array_equal(one.numpy().T, two.numpy())


def write(graph: onnx_ir.Model, out: Path, check: Callable[[Path], object], *, inside: int = LARGEST_INSIDE) -> int:
    """Bytes of the file `out`, which appears when `check` of it has passed, and of its data file.

    Weights of more than `inside` bytes go into the data file.
    """
    neighbour = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        neighbour.mkdir(parents=True)
        file = neighbour / out.name
        if _weight_bytes(graph) > inside:
            onnx_ir.save(graph, file, external_data=data_file(file).name)
        else:
            onnx_ir.external_data.load_to_model(graph)
            file.write_bytes(onnx_ir.to_proto(graph).SerializeToString(deterministic=True))
        check(file)
        data_file(out).unlink(missing_ok=True)
        return sum(_move(written, out.parent) for written in (data_file(file), file) if written.exists())
    except OSError as error:
        raise ExportError(f"{out} can't be written: {error}") from error
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


def _move(file: Path, folder: Path) -> int:
    """The bytes of a file, which is safe on disk in its folder."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    return file.replace(folder / file.name).stat().st_size


def _weight_bytes(graph: onnx_ir.Model) -> int:
    return sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value)


def facts(graph: onnx_ir.Model, *, num_bytes: int) -> ExportFacts:
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
