"""Whether the weights of a graph are rounded, as its operators and its weights show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.errors import RunError, first_line

BLOCKWISE = frozenset(["MatMulNBits", "GatherBlockQuantized"])
QUANTIZED = BLOCKWISE | frozenset(
    [
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "EmbedLayerNormalizationQuant",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QLinearAdd",
        "QLinearConv",
        "QLinearMatMul",
        "QuantizeLinear",
    ]
)
FRACTIONS = 16
"""Bits of weights that are fractions still."""
_MOST = 0.5  # of the weights' numbers; from here on a graph counts as one of 16 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How many bits the weights of a graph have, and what shows it."""

    bits: int  # 4, 8 or 16; the fewest where they differ
    shown_by: str


def rounding_of(files: Sequence[Path]) -> Rounding | None:
    """How the weights of graphs are rounded; None where they are float32. Raises RunError E402 or E604."""
    try:
        import onnx
    except ImportError as error:
        raise RunError(
            "E402", f"graphs are read by onnx: {error}", 'install it: pip install "recipec[onnx]"'
        ) from error
    operators: Counter[str] = Counter()
    bits: set[int] = set()
    halves = numbers = 0
    for file in files:
        try:
            model = onnx.load(file, load_external_data=False)
        except Exception as error:  # protobuf's errors share no base with onnx's
            raise RunError("E604", f"{file}: not an ONNX graph: {first_line(error)}", "export it again") from error
        for node in _nodes(model.graph):
            operators[node.op_type] += 1
            bits.add(_bits(node))
        for weight in model.graph.initializer:
            size = _size(weight.dims)
            numbers += size
            halves += size * (weight.data_type in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16))
    if quantized := {name: count for name, count in operators.items() if name in QUANTIZED}:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(quantized.items()))
        return Rounding(bits=min(bits), shown_by=shown)
    return Rounding(bits=FRACTIONS, shown_by="weights of 16 bits") if halves > _MOST * numbers else None


def _bits(node: Any) -> int:
    """Bits of a node's weights, as its kind says, or its attribute where it holds them in blocks."""
    if node.op_type in BLOCKWISE:
        return next((int(each.i) for each in node.attribute if each.name == "bits"), 4)
    return 8 if node.op_type in QUANTIZED else FRACTIONS


def _nodes(graph: Any) -> Iterator[Any]:
    """The nodes of a graph, and of those inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(inner)


def _size(dims: Sequence[int]) -> int:
    size = 1
    for dim in dims:
        size *= dim
    return size
