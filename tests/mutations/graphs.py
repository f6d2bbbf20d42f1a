"""Faults of exported graphs: each changes one in place, told apart by structure, so that they fit other models too."""

# Axes: B = rows, T = tokens, C = outputs of a row, V = vocabulary

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Edit = Callable[[onnx.ModelProto], None]
Array = npt.NDArray[Any]
_FLOAT16, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
TRACED = 11
"""Tokens of the trace that a frozen graph keeps."""


# --- finding and replacing


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    """The float tensors of a graph that are no single numbers, by name."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in found.items() if array.dtype == np.float32 and array.size > 1}


def set_weight(model: onnx.ModelProto, name: str, array: Array) -> None:
    """Puts a tensor into a graph, in the place of that of its name if there is one."""
    found = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
    found[0].CopyFrom(tensor) if found else model.graph.initializer.append(tensor)


def nodes_of(model: onnx.ModelProto, *kinds: str) -> list[onnx.NodeProto]:
    """The nodes of some kinds, in order. Raises LookupError where there are none."""
    found = [node for node in model.graph.node if node.op_type in kinds]
    if not found:
        raise LookupError(f"the graph has no {' or '.join(kinds)}")
    return found


def products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The products with a matrix of weights, in order."""
    known = weights(model)
    return [node for node in nodes_of(model, "MatMul", "Gemm") if node.input[1] in known]


def head(model: onnx.ModelProto) -> onnx.NodeProto:
    """The last product with weights: what gives the logits."""
    return products(model)[-1]


def insert(model: onnx.ModelProto, value: str, make: Callable[[str, str], Sequence[onnx.NodeProto]]) -> None:
    """Puts nodes behind an input or a value: what read it reads their result. `make`: from its name and the result's.

    Raises LookupError where the graph has no such value.
    """
    graph, after = model.graph, f"{value}.fault"
    at = next((place for place, node in enumerate(graph.node) if value in node.output), None)
    if at is None and value not in {given.name for given in graph.input}:
        raise LookupError(f"the graph has no {value}")
    if value in {result.name for result in graph.output}:
        assert at is not None, "results are made by nodes"
        graph.node[at].output[:] = [f"{value}.right" if name == value else name for name in graph.node[at].output]
        _reread(model, value, f"{value}.right")
        made = make(f"{value}.right", value)
    else:
        _reread(model, value, after)
        made = make(value, after)
    for offset, node in enumerate(made):
        graph.node.insert((-1 if at is None else at) + 1 + offset, node)


def _reread(model: onnx.ModelProto, value: str, other: str) -> None:
    for node in model.graph.node:
        node.input[:] = [other if name == value else name for name in node.input]


def constant(model: onnx.ModelProto, name: str, value: Any, dtype: Any) -> str:
    """The name of a constant that is put into a graph."""
    set_weight(model, f"fault.{name}", np.asarray(value, dtype))
    return f"fault.{name}"


# --- weights


def scale(factor: float) -> Edit:
    """The largest matrix of a layer, times a factor."""

    def edit(model: onnx.ModelProto) -> None:
        known = weights(model)
        name = max((node.input[1] for node in products(model)[:-1]), key=lambda found: known[found].size)
        set_weight(model, name, known[name] * np.float32(factor))

    return edit


def swap_layers(num_layers: int) -> Edit:
    """The matrices of the first two layers, exchanged."""

    def edit(model: onnx.ModelProto) -> None:
        found = [node for node in products(model) if node.op_type == "MatMul"]
        each = len(found) // num_layers
        for one, two in zip(found[:each], found[each : 2 * each], strict=True):
            one.input[1], two.input[1] = two.input[1], one.input[1]

    return edit


def round_bfloat16(model: onnx.ModelProto) -> None:
    """Every weight, cut to the sixteen bits of bfloat16."""
    for name, array in weights(model).items():
        bits = np.ascontiguousarray(array).view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32)
        set_weight(model, name, rounded.view(np.float32))


def shift_embeddings(model: onnx.ModelProto) -> None:
    """Each token has the vector of the one before it."""
    [table] = {node.input[0] for node in nodes_of(model, "Gather") if node.input[1] == "input_ids"} & {*weights(model)}
    set_weight(model, table, np.roll(weights(model)[table], 1, axis=0))


def redraw(pick: Callable[[onnx.ModelProto], onnx.NodeProto]) -> Edit:
    """A matrix as another checkpoint has it: other values of the same size."""

    def edit(model: onnx.ModelProto) -> None:
        name = pick(model).input[1]
        old = weights(model)[name]
        drawn = np.random.default_rng(5).normal(scale=max(old.std(), 1e-3), size=old.shape)
        set_weight(model, name, drawn.astype(np.float32))

    return edit


def pooling(model: onnx.ModelProto) -> onnx.NodeProto:
    """The product before the head, where the head reads one token of a row."""
    return products(model)[-2]


def drop_bias(model: onnx.ModelProto) -> None:
    """The bias of the head."""
    node = head(model)
    if node.op_type == "Gemm":
        name = node.input[2]
    else:
        reader = next(other for other in nodes_of(model, "Add") if node.output[0] in other.input)
        name = next(found for found in reader.input if found in weights(model))
    set_weight(model, name, np.zeros_like(weights(model)[name]))


def swap_colours(model: onnx.ModelProto) -> None:
    """The first convolution takes blue for red."""
    name = nodes_of(model, "Conv")[0].input[1]
    set_weight(model, name, weights(model)[name][:, ::-1])


# --- operators


def softmax_axis(model: onnx.ModelProto) -> None:
    """Attention is normalised over the tokens that ask, not over those that answer."""
    for attribute in nodes_of(model, "Softmax")[0].attribute:
        if attribute.name == "axis":
            attribute.i = -2


def norm_epsilon(value: float) -> Edit:
    """Another epsilon in every layer norm."""

    def edit(model: onnx.ModelProto) -> None:
        for node in nodes_of(model, "LayerNormalization"):
            for attribute in node.attribute:
                if attribute.name == "epsilon":
                    attribute.f = value

    return edit


def gelu_by_tanh(model: onnx.ModelProto) -> None:
    """The error function of every GELU by its approximation: erf(x) ~ tanh(2/sqrt(pi) (x + 0.08943 x^3))."""
    cube, factor = constant(model, "cube", 0.08943, np.float32), constant(model, "factor", 1.1283792, np.float32)
    for node in nodes_of(model, "Erf"):
        [value], [out] = node.input, node.output
        names = [f"{out}.{part}" for part in ("square", "cubed", "scaled", "sum", "inside")]
        made = [
            helper.make_node("Mul", [value, value], [names[0]]),
            helper.make_node("Mul", [names[0], value], [names[1]]),
            helper.make_node("Mul", [names[1], cube], [names[2]]),
            helper.make_node("Add", [value, names[2]], [names[3]]),
            helper.make_node("Mul", [names[3], factor], [names[4]]),
            helper.make_node("Tanh", [names[4]], [out]),
        ]
        at = [*model.graph.node].index(node)
        model.graph.node.remove(node)
        for offset, other in enumerate(made):
            model.graph.node.insert(at + offset, other)


def drop_layer(model: onnx.ModelProto) -> None:
    """What reads the last layer of an encoder reads the one before it."""
    norms = nodes_of(model, "LayerNormalization")
    _reread(model, norms[-1].output[0], norms[-3].output[0])


def dropout_on(model: onnx.ModelProto) -> None:
    """A dropout of a tenth before the head, as a model in training mode is traced: random numbers, not the operator.

    (onnxruntime drops nothing in a Dropout, whatever the graph says.)
    """
    ratio, kept = constant(model, "ratio", 0.1, np.float32), constant(model, "kept", 0.9, np.float32)

    def make(given: str, made: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("RandomUniformLike", [given], [f"{made}.drawn"], seed=7.0),
            helper.make_node("Greater", [f"{made}.drawn", ratio], [f"{made}.stays"]),
            helper.make_node("Cast", [f"{made}.stays"], [f"{made}.mask"], to=_FLOAT),
            helper.make_node("Mul", [given, f"{made}.mask"], [f"{made}.left"]),
            helper.make_node("Div", [f"{made}.left", kept], [made]),
        ]

    insert(model, head(model).input[0], make)


def overflow_float16(model: onnx.ModelProto) -> None:
    """What the head reads goes through float16 at a scale that float16 does not reach."""
    factor = constant(model, "scale", 1e6, np.float32)

    def make(given: str, made: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Mul", [given, factor], [f"{made}.large"]),
            helper.make_node("Cast", [f"{made}.large"], [f"{made}.half"], to=_FLOAT16),
            helper.make_node("Cast", [f"{made}.half"], [f"{made}.whole"], to=_FLOAT),
            helper.make_node("Div", [f"{made}.whole", factor], [made]),
        ]

    insert(model, head(model).input[0], make)


# --- inputs and outputs


def ones_for(name: str) -> Edit:
    """An input of whole numbers is read as ones, whatever it is."""
    return _affine_input(name, 0, 1)


def zeros_for(name: str) -> Edit:
    """An input of whole numbers is read as zeros, whatever it is."""
    return _affine_input(name, 0, 0)


def _affine_input(name: str, factor: int, offset: int) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        times, plus = constant(model, "times", factor, np.int64), constant(model, "plus", offset, np.int64)
        insert(
            model,
            name,
            lambda given, made: [
                helper.make_node("Mul", [given, times], [f"{made}.times"]),
                helper.make_node("Add", [f"{made}.times", plus], [made]),
            ],
        )

    return edit


def mask_from_the_other_side(model: onnx.ModelProto) -> None:
    """The mask is read from the end of the row, as if padding stood at the other side."""
    ends = [constant(model, name, [value], np.int64) for name, value in _BACKWARDS.items()]
    insert(model, "attention_mask", lambda given, made: [helper.make_node("Slice", [given, *ends], [made])])


_BACKWARDS = {"start": -1, "end": np.iinfo(np.int64).min, "axis": 1, "step": -1}


def restart_positions(model: onnx.ModelProto) -> None:
    """Positions count from the first of the tokens that are given, not from the first of the row."""
    names = [constant(model, name, [value], np.int64) for name, value in {"0": 0, "1": 1, "axis": 1}.items()]
    insert(
        model,
        "position_ids",
        lambda given, made: [
            helper.make_node("Slice", [given, *names], [f"{made}.first"]),
            helper.make_node("Sub", [given, f"{made}.first"], [made]),
        ],
    )


def cache_off_by_one(model: onnx.ModelProto) -> None:
    """Every cached key and value stands one place too late; the first stands twice, the last is lost."""
    zero, one, last, axis = (
        constant(model, name, [value], np.int64) for name, value in {"0": 0, "1": 1, "last": -1, "axis": 2}.items()
    )

    def make(given: str, made: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Slice", [given, zero, one, axis], [f"{made}.first"]),
            helper.make_node("Slice", [given, zero, last, axis], [f"{made}.others"]),
            helper.make_node("Concat", [f"{made}.first", f"{made}.others"], [made], axis=2),
        ]

    names = [result.name for result in model.graph.output if result.name.startswith("present.")]
    if not names:
        raise LookupError("the graph keeps no cache")
    for name in names:
        insert(model, name, make)


def freeze(axis: int, size: int) -> Edit:
    """An axis of every input has the size that it was traced with."""

    def edit(model: onnx.ModelProto) -> None:
        for given in model.graph.input:
            given.type.tensor_type.shape.dim[axis].dim_value = size

    return edit


def cut_at_traced_length(model: onnx.ModelProto) -> None:
    """Tokens beyond the traced length are masked: the graph runs at any length, and reads no more than that."""
    names = [constant(model, name, [value], np.int64) for name, value in {"0": 0, "cut": TRACED, "axis": 1}.items()]
    none, far = constant(model, "none", [0], np.int64), constant(model, "far", [2**31], np.int64)

    def make(given: str, made: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Slice", [given, *names], [f"{made}.read"]),
            helper.make_node("Slice", [given, names[1], far, names[2]], [f"{made}.rest"]),
            helper.make_node("Mul", [f"{made}.rest", none], [f"{made}.unread"]),
            helper.make_node("Concat", [f"{made}.read", f"{made}.unread"], [made], axis=1),
        ]

    insert(model, "attention_mask", make)


def reorder_logits(model: onnx.ModelProto) -> None:
    """The outputs in reverse, the labels as they were."""
    count = weights(model)[head(model).input[1]].shape
    num_outputs = count[0] if head(model).op_type == "Gemm" else count[1]
    order = constant(model, "order", [*range(num_outputs)][::-1], np.int64)
    insert(model, "logits", lambda given, made: [helper.make_node("Gather", [given, order], [made], axis=-1)])


def rescale_logits(factor: float, shift: float = 0.0) -> Edit:
    """The outputs times a factor, plus a shift."""

    def edit(model: onnx.ModelProto) -> None:
        times, plus = constant(model, "times", factor, np.float32), constant(model, "plus", shift, np.float32)
        insert(
            model,
            "logits",
            lambda given, made: [
                helper.make_node("Mul", [given, times], [f"{made}.times"]),
                helper.make_node("Add", [f"{made}.times", plus], [made]),
            ],
        )

    return edit


def input_names(model: onnx.ModelProto) -> Iterator[str]:
    """What the graph is given."""
    return (given.name for given in model.graph.input)
