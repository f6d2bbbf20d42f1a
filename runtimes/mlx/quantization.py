"""A base model whose linear weights are held quantized: what QLoRA trains beside, in training, scoring and merging.

A weight is scale * code + bias, with one scale and bias for each group of inputs, as `mx.quantize` makes them of the
float32 values. Always on the CPU: the base is then a function of its files, and the same on every device.
"""

# O = outputs, I = inputs

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from compiler.files import write_json, write_text
from compiler.methods import Method, QLoRA
from compiler.typed import read, to_json
from runtimes.errors import RunError
from runtimes.mlx.dtypes import DTYPES
from runtimes.mlx.graph import Graph
from runtimes.mlx.passes.quantized_linear import BIASES, SCALES, linear_weights, quantize_linear
from runtimes.mlx.weights import Weights, inner_name, load_weights, stored_arrays, stored_name

RECORD = "quantization.json"
_CARD = """---
library_name: peft
base_model: {model}
---

Trained beside `{model}` with {count} linear weights quantized by MLX: {bits} bits, groups of {group_size} inputs
(`mx.quantize`, affine, of the float32 values). `{record}` names them.

PEFT loads the adapter on the plain base as well. There it answers a little differently: the base that it was trained
beside is the dequantized one, which the merged model of the run has in float32.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """Which weights of a base model are held quantized, by their names in that model, and how."""

    bits: int
    group_size: int
    weights: tuple[str, ...]


def quantization_of(method: Method, *graphs: Graph) -> Quantization | None:
    """What a method quantizes in a model whose graphs these are; None for methods that quantize nothing.

    Raises RunError E406 when there is nothing to quantize.
    """
    if not isinstance(method, QLoRA):
        return None
    common = [name for name in linear_weights(graphs[0]) if all(name in linear_weights(graph) for graph in graphs)]
    held = [name for name in common if graphs[0].parameters[name].shape[1] % method.group_size == 0]
    if not held:
        reason = "their inputs are not divided by the group size" if common else "there are none inside numbered layers"
        raise RunError("E406", f"no linear weight of the model can be quantized: {reason}", "use the method lora")
    return Quantization(
        bits=method.bits, group_size=method.group_size, weights=tuple(inner_name(name) for name in held)
    )


def quantized(graph: Graph, held: Quantization | None) -> Graph:
    """The graph over a quantized base. Raises RunError E502 when the base has other weights than were quantized."""
    if held is None:
        return graph
    names = _in_graph(graph, held)
    _require_held(held, {inner_name(name) for name in names})
    return quantize_linear(graph, names, bits=held.bits, group_size=held.group_size)


def parts_of(held: Quantization | None, *graphs: Graph) -> tuple[Quantization | None, ...]:
    """What is held of each graph, where a base is in several. Raises RunError E502 when a weight is in none."""
    if held is None:
        return (None,) * len(graphs)
    found = [{inner_name(name) for name in _in_graph(graph, held)} for graph in graphs]
    _require_held(held, set().union(*found))
    return tuple(replace(held, weights=tuple(name for name in held.weights if name in names)) for names in found)


def _require_held(held: Quantization, found: set[str]) -> None:
    if lacking := sorted(set(held.weights) - found):
        message = f"the quantized weights {', '.join(lacking[:4])} are not in the base model"
        raise RunError("E502", message, "run the training again")


def _in_graph(graph: Graph, held: Quantization) -> tuple[str, ...]:
    return tuple(name for name in linear_weights(graph) if inner_name(name) in held.weights)


def load_base(
    graph: Graph, files: Sequence[Path], names: Mapping[str, str], held: Quantization | None
) -> tuple[Graph, Weights]:
    """The graph over a base as it is held, and its weights: see load_weights."""
    changed = quantized(graph, held)
    weights = load_weights(changed, files, names)
    packed = {} if held is None else _load_quantized(graph, files, names, held)
    missing = tuple(name for name in weights.missing if name not in packed)
    return changed, replace(weights, parameters={**weights.parameters, **packed}, missing=missing)


def _load_quantized(
    graph: Graph, files: Sequence[Path], names: Mapping[str, str], held: Quantization
) -> dict[str, mx.array]:
    """The codes, scales and biases of a graph's quantized weights. One weight at a time is in memory in float32."""
    stored = stored_arrays(files, names)
    found: dict[str, mx.array] = {}
    for name in _in_graph(graph, held):
        own = graph.parameters[name]
        place = stored_name(stored, (name,), own.shape)
        if place is not None:
            codes, scales, biases = quantize(stored.pop(place), held)
            dtype = DTYPES[own.dtype]
            parts = {name: codes, name + SCALES: scales.astype(dtype), name + BIASES: biases.astype(dtype)}
            mx.eval(parts)
            found |= parts
    return found


def quantize(weight_OI: mx.array, held: Quantization) -> tuple[mx.array, mx.array, mx.array]:
    """The codes, scales and biases of a weight; the last two in float32."""
    codes, scales, biases = mx.quantize(
        weight_OI.astype(mx.float32, stream=mx.cpu), group_size=held.group_size, bits=held.bits, stream=mx.cpu
    )
    return codes, scales, biases


def dequantized(weight_OI: npt.NDArray[np.float32], held: Quantization) -> npt.NDArray[np.float32]:
    """The values that a weight has when it is held quantized."""
    parts = quantize(mx.array(weight_OI), held)
    return np.array(mx.dequantize(*parts, group_size=held.group_size, bits=held.bits, stream=mx.cpu))


def write_record(folder: Path, held: Quantization, model: str) -> None:
    """Says beside an adapter what base it was trained on: for programs, and for people."""
    write_json(folder / RECORD, to_json(held))
    facts = {"bits": held.bits, "group_size": held.group_size, "count": len(held.weights), "record": RECORD}
    write_text(folder / "README.md", _CARD.format(model=model, **facts))


def read_record(method: Method, folder: Path) -> Quantization | None:
    """What write_record left beside an adapter; None for methods that quantize nothing. Raises RunError E502."""
    if not isinstance(method, QLoRA):
        return None
    try:
        return read(Quantization, json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError("E502", f"{folder / RECORD} can't be read: {error}", "run the training again") from error
