"""Graphs in fewer bits: onnxruntime's own quantizers, told what to round, kept quiet, and checked afterwards.

What is chosen here was measured on a BERT of 22.7M parameters (docs/decisions/0031-precisions.md).
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers import float16

from compiler.files import PART
from compiler.recipe import Onnx
from runtimes.errors import RunError, first_line
from runtimes.export.facts import data_file
from runtimes.export.session import open_session

Feed = Mapping[str, npt.NDArray[Any]]
"""The inputs of a batch by their names."""
LARGEST_INSIDE = 2**30
"""Bytes of weights that stay inside of the graph's own file."""
_WEIGHED = ("MatMul", "Gemm", "Conv")
_LOOKED_UP = "Gather"
_FOR_PRODUCTS: Mapping[str, Any] = {
    "weight_type": quantization.QuantType.QInt8,
    "per_channel": True,
    "reduce_range": True,  # seven bits: the sum of two products with eight overflows 16 on processors without VNNI
}
_FOR_LOOKING_UP: Mapping[str, Any] = {"weight_type": quantization.QuantType.QUInt8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounded:
    """What became of a graph."""

    num_bytes: int
    rounded: int
    """Nodes whose weights have fewer bits."""
    weighed: int
    """Nodes that multiply with weights, or look something up in them."""


def round_graph(export: Onnx, graph: Path, out: Path, *, weights_alone: bool, rows: Sequence[Feed] = ()) -> Rounded:
    """Facts about the graph that is written to `out`, whole or not at all. Raises RunError E509.

    `weights_alone`: of int8 too, whose other half is rounded while the graph runs. `rows`: batches of which
    int8-static sees the ranges.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=PART) as folder, _quiet():
        start, end = Path(folder) / "before.onnx", Path(folder) / out.name
        try:
            weighed = prepare(graph, start)
            _round(export, start, end, weights_alone=weights_alone, rows=rows)
        except (ValueError, RuntimeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise _failure(export, first_line(error)) from error
        open_session(end, results=())
        rounded = _count_rounded(end)
        if not rounded and export.precision != "fp16":
            raise _failure(export, f"none of its {weighed} layers can be held so")
        return Rounded(num_bytes=_move(end, out), rounded=rounded or weighed, weighed=weighed)


def _failure(export: Onnx, why: str) -> RunError:
    hint = "export it with another precision" + (': "int8-static"' if export.precision == "int8" else "")
    return RunError("E509", f"the graph can't be rounded to {export.precision}: {why}", hint)


def prepare(graph: Path, out: Path) -> int:
    """Writes the graph as quantizers read it; how many of its nodes have weights.

    Without what is said of shapes inside of it, which they contradict when they turn a weight; and with the embedding
    that is the last layer too as a weight of its own, which they do not see behind its transposition.
    """
    model = onnx.load(graph)
    del model.graph.value_info[:]
    _turn(model)
    names = {tensor.name for tensor in model.graph.initializer}
    _save(model, out)
    return sum(_has_weight(node, names) for node in model.graph.node)


def _turn(model: onnx.ModelProto) -> None:
    """Weights that are transposed while the graph runs are transposed in it."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        array = numpy_helper.to_array(weights[node.input[0]])
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        model.graph.initializer.append(numpy_helper.from_array(array.transpose(order).copy(), node.output[0]))
        model.graph.node.remove(node)
    read = {name for node in model.graph.node for name in node.input} | {output.name for output in model.graph.output}
    for tensor in [tensor for name, tensor in weights.items() if name not in read]:
        model.graph.initializer.remove(tensor)


def _has_weight(node: onnx.NodeProto, names: set[str]) -> bool:
    place = 0 if node.op_type == _LOOKED_UP else 1
    return node.op_type in (*_WEIGHED, _LOOKED_UP) and len(node.input) > place and node.input[place] in names


def _round(export: Onnx, start: Path, out: Path, *, weights_alone: bool, rows: Sequence[Feed]) -> None:
    match export.precision:
        case "fp16":
            _save(float16.convert_float_to_float16(str(start), keep_io_types=True), out)
        case "int8" if weights_alone:
            _in_blocks(start, out, bits=8, block_size=export.block_size)
        case "int8":
            _dynamic(start, out, [*_WEIGHED, _LOOKED_UP], _FOR_PRODUCTS)
        case "int8-static":
            _static(start, out, rows)
        case "int4":
            _in_blocks(start, out, bits=4, block_size=export.block_size)
        case "fp32":
            raise AssertionError("nothing is rounded to float32")


def _dynamic(start: Path, out: Path, kinds: Sequence[str], settings: Mapping[str, Any]) -> None:
    quantization.quantize_dynamic(
        start,
        out,
        op_types_to_quantize=[*kinds],
        **settings,
        use_external_data_format=data_file(start).exists(),
    )


def _static(start: Path, out: Path, rows: Sequence[Feed]) -> None:
    """What multiplies weights, by the ranges that rows show; masks and sums keep their numbers."""
    model = onnx.load(start, load_external_data=False)
    names = {tensor.name for tensor in model.graph.initializer}
    quantization.quantize_static(
        start,
        out,
        _Rows(rows),
        op_types_to_quantize=[*_WEIGHED, _LOOKED_UP],
        nodes_to_quantize=[node.name for node in model.graph.node if _has_weight(node, names)],
        activation_type=quantization.QuantType.QUInt8,
        **_FOR_PRODUCTS,
        use_external_data_format=data_file(start).exists(),
    )


class _Rows(quantization.CalibrationDataReader):  # type: ignore[misc]  # the base is untyped
    """Batches, one after another, as the quantizer asks for them."""

    def __init__(self, rows: Sequence[Feed]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> Feed | None:
        return next(self._rows, None)


def _in_blocks(start: Path, out: Path, *, bits: int, block_size: int) -> None:
    """Weights alone, a scale for each block of inputs; what is looked up in 8 bits has one scale."""
    kinds = ("MatMul", _LOOKED_UP) if bits == 4 else ("MatMul",)
    quantizer = MatMulNBitsQuantizer(
        onnx.load(start),
        bits=bits,
        block_size=block_size,
        is_symmetric=bits == 8,
        accuracy_level=4,
        op_types_to_quantize=kinds,
        quant_axes=(("MatMul", 0), (_LOOKED_UP, 1)),
    )
    quantizer.process()
    middle = out.with_name("middle.onnx")
    _save(quantizer.model.model, out if bits == 4 else middle)
    if bits == 8:
        _dynamic(middle, out, [_LOOKED_UP], _FOR_LOOKING_UP)


def _count_rounded(graph: Path) -> int:
    """Nodes that read weights of fewer bits."""
    model = onnx.load(graph, load_external_data=False)
    kinds = Counter(node.op_type for node in model.graph.node)
    whole = {tensor.name for tensor in model.graph.initializer if tensor.data_type not in _FRACTIONS}
    opened = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in whole
    }
    read = sum(any(name in opened for name in node.input) for node in model.graph.node)
    looked_up = sum(
        node.op_type == _LOOKED_UP and node.input[0] in whole and _is_opened(node.output[0], model)
        for node in model.graph.node
    )
    inside = ("MatMulInteger", "ConvInteger", "MatMulNBits", "GatherBlockQuantized")
    return sum(kinds[name] for name in inside) + int(read) + int(looked_up)


def _is_opened(name: str, model: onnx.ModelProto) -> bool:
    return any(node.op_type == "DequantizeLinear" and node.input[0] == name for node in model.graph.node)


_FRACTIONS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


def _save(model: onnx.ModelProto, file: Path) -> None:
    """Writes a graph; many weights into a file beside it."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > LARGEST_INSIDE:
        onnx.save(model, file, save_as_external_data=True, location=data_file(file).name)
    else:
        file.write_bytes(model.SerializeToString(deterministic=True))


def _move(file: Path, out: Path) -> int:
    """The bytes of a graph, which is safe on disk in its place, with the weights beside it."""
    whole = onnx.load(file) if any(file.parent.glob(f"{file.name}?data")) else None
    if whole is not None and not data_file(file).exists():  # the quantizer's own name for it
        _save(whole, file)
    data_file(out).unlink(missing_ok=True)
    return sum(_placed(one, out.parent) for one in (data_file(file), file) if one.exists())


def _placed(file: Path, folder: Path) -> int:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    return file.replace(folder / file.name).stat().st_size


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizers advise and warn on the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(action="ignore"):
        try:
            yield
        finally:
            logging.disable(disabled)
