"""Every value on the way through an ONNX graph, by onnxruntime with its optimizations off, so that nothing is fused.

onnxruntime holds each value that a session can give until its run has ended, asked for or not. So the graph is opened
again for each portion of its values, of at most PORTION bytes, and gives these alone: that is the most that is held of
them, or one value, where it is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import numpy_helper

from runtimes.errors import RunError, first_line
from runtimes.export.feeds import Arrays, Input, feeds, input_of, is_made
from runtimes.export.session import session_options
from runtimes.localisation.values import Array, Graph, Node

PORTION = 1 << 29
"""Bytes of values that are asked for at once; what is before them is computed again."""
_WIDEST = 8
"""Bytes of a number, as far as a shape tells."""
_NO_ARRAYS = frozenset(
    {
        "Optional",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    }
)
"""Operators that give something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A graph whose every value can be asked for."""

    graph: Graph
    file: Path
    model: Any  # onnx.ModelProto without outputs
    outputs: tuple[str, ...]  # names in the file
    inside: tuple[str, ...]  # likewise, of all arrays that operators give
    renamed: Mapping[str, str]  # names in the file -> in the graph


def open_graph(file: Path, *, prefix: str = "", told: bool = False) -> Opened:
    """The graph of a file. `prefix`: of its values' names. `told`: whether its operators say which file they are in.

    Raises RunError E608.
    """
    try:
        model = onnx.load(str(file), load_external_data=False)
        if model.functions:  # operators that the file itself defines
            model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # errors of protobuf, of ONNX and of the system share no base
        raise _unreadable(file, error) from error
    _require_visible(file, model.graph)
    inner = model.graph
    names = {
        *(value.name for value in (*inner.input, *inner.output)),
        *(name for node in inner.node for name in (*node.input, *node.output)),
        *(tensor.name for tensor in inner.initializer),
    }
    renamed = {name: f"{prefix}{name}" for name in names if name}
    weights: dict[str, Callable[[], Array]]
    weights = {renamed[tensor.name]: partial(_array, tensor, file.parent) for tensor in inner.initializer}
    weights |= {renamed[name]: read for node in inner.node for name, read in _constants(node, file.parent)}
    nodes = [node for node in inner.node if node.op_type != "Constant"]
    graph = Graph(
        nodes=tuple(_node(node, renamed, file.name if prefix or told else "") for node in nodes),
        inputs=tuple(renamed[value.name] for value in inner.input if renamed[value.name] not in weights),
        outputs=tuple(renamed[value.name] for value in inner.output),
        weights=weights,
    )
    outputs = tuple(value.name for value in inner.output)
    del inner.output[:]
    arrays = (node for node in nodes if node.op_type not in _NO_ARRAYS)
    inside = tuple(name for node in arrays for name in node.output if name)
    return Opened(graph=graph, file=file, model=model, outputs=outputs, inside=inside, renamed=renamed)


def _require_visible(file: Path, graph: Any) -> None:
    """Nothing where most operators can be looked at. Raises RunError E608."""
    hidden = {node.op_type: sum(1 for _ in _inside(node)) for node in graph.node}
    total = len(graph.node) + sum(hidden.values())
    if 2 * sum(hidden.values()) > total:
        kinds = " and ".join(sorted(kind for kind, count in hidden.items() if count))
        told = f"{sum(hidden.values())} of its {total} operators are inside of {kinds}"
        message = f"{file}: {told}, of which only what comes out is seen"
        raise RunError("E608", message, "compare one without branches: of a merged decoder, decoder_model.onnx")


def _inside(node: Any) -> Iterator[Any]:
    """The operators of the graphs inside of an If or a Loop."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield inner
                yield from _inside(inner)


def joined(graphs: Sequence[Graph], links: Mapping[str, str]) -> Graph:
    """Graphs that run one after another as one. `links`: inputs of later ones -> outputs of earlier ones."""
    nodes = [
        replace(node, inputs=tuple(links.get(name, name) for name in node.inputs))
        for graph in graphs
        for node in graph.nodes
    ]
    return Graph(
        nodes=tuple(nodes),
        inputs=tuple(name for graph in graphs for name in graph.inputs if name not in links),
        outputs=graphs[-1].outputs,
        weights={name: read for graph in graphs for name, read in graph.weights.items()},
    )


def _node(node: Any, renamed: Mapping[str, str], file: str) -> Node:
    inside = _free_names(node)  # what the graphs inside of an If or a Loop read
    return Node(
        op_type=node.op_type,
        name=node.name or f"of {node.output[0]}",
        inputs=tuple(renamed.get(name, name) for name in (*node.input, *inside)),
        outputs=tuple(renamed[name] for name in node.output if name),
        attributes=", ".join(_attribute(one) for one in node.attribute if _is_plain(one)),
        file=file,
    )


def _free_names(node: Any) -> list[str]:
    return [name for inner in _inside(node) for name in inner.input if name]


def _is_plain(attribute: Any) -> bool:
    kinds = onnx.AttributeProto
    return attribute.type in (kinds.INT, kinds.FLOAT, kinds.STRING, kinds.INTS)


def _attribute(attribute: Any) -> str:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, float):
        value = f"{value:.6g}"
    return f"{attribute.name}={value.decode(errors='replace') if isinstance(value, bytes) else value}"


def _constants(node: Any, folder: Path) -> Iterator[tuple[str, Callable[[], Array]]]:
    if node.op_type == "Constant":
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield node.output[0], partial(_array, attribute.t, folder)
            else:
                yield node.output[0], partial(np.asarray, onnx.helper.get_attribute_value(attribute))


def _array(tensor: Any, folder: Path) -> Array:
    found: Array = numpy_helper.to_array(tensor, str(folder))
    return found.astype(np.float32) if found.dtype.kind not in "fiub" else found  # bfloat16 and its like


@dataclass(frozen=True, slots=True, kw_only=True)
class Fed:
    """A graph, and what its inputs are given, by their names in the file."""

    opened: Opened
    feeds: Arrays


def values_of(fed: Fed, most: int = PORTION) -> Iterator[tuple[str, Array]]:
    """Every value of a graph by its name, constants too. Raises RunError E608. `most`: bytes that are held at once."""
    for name, read in fed.opened.graph.weights.items():
        yield name, read()
    for portion in portions_of(fed, most=most):
        yield from portion.items()


def portions_of(fed: Fed, wanted: Container[str] | None = None, *, most: int = PORTION) -> Iterator[dict[str, Array]]:
    """What the operators of a graph give, by name, as much at once as `most` bytes hold. Raises RunError E608.

    `wanted`: those that are asked for; None: all.
    """
    renamed = fed.opened.renamed
    names = [name for name in fed.opened.inside if wanted is None or renamed[name] in wanted]
    if not names:
        return  # a session without outputs is none
    sizes = dict(zip(names, _sizes(fed, names), strict=True))
    for portion in portions(sizes, most):
        yield {renamed[name]: array for name, array in _run(fed, portion).items()}


def portions(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Names in their order, as many at once as are not larger than `most` together; one at least."""
    found: list[str] = []
    total = 0
    for name, size in sizes.items():
        if found and total + size > most:
            yield found
            found, total = [], 0
        found.append(name)
        total += size
    if found:
        yield found


def outputs_of(fed: Fed) -> dict[str, Array]:
    """What a graph gives, by its names in the file. Raises RunError E608."""
    return _run(fed, fed.opened.outputs)


def _sizes(fed: Fed, names: Sequence[str]) -> list[int]:
    """How many bytes values have at most: the graph is run for their shapes alone."""
    shapes = [f"{name}:shape" for name in names]
    nodes = [onnx.helper.make_node("Shape", [name], [shape]) for name, shape in zip(names, shapes, strict=True)]
    return [prod(shape.tolist()) * _WIDEST for shape in _run(fed, shapes, nodes).values()]


def _run(fed: Fed, names: Sequence[str], nodes: Sequence[Any] = ()) -> dict[str, Array]:
    """Values by their names in the file. `nodes`: that are added to the graph."""
    session = _open(fed.opened, onnx.GraphProto(node=nodes, output=[onnx.ValueInfoProto(name=name) for name in names]))
    try:
        return dict(zip(names, session.run(names, dict(fed.feeds)), strict=True))
    except Exception as error:  # onnxruntime's errors share no base
        raise _unreadable(fed.opened.file, error) from error


def _open(opened: Opened, added: Any) -> Any:
    """The session of a graph with something added to it, which a message is merged with that follows it."""
    options = session_options(0)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    folder = str(opened.file.parent.absolute())
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    whole = opened.model.SerializeToString() + onnx.ModelProto(graph=added).SerializeToString()
    try:
        return onnxruntime.InferenceSession(whole, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base
        raise _unreadable(opened.file, error) from error


def feed(opened: Opened, given: Arrays, *, cached: bool) -> Fed:
    """A graph that is fed for a batch (see export.feeds). Raises RunError E608 where it takes something else."""
    values = [value for value in opened.model.graph.input if opened.renamed[value.name] not in opened.graph.weights]
    inputs = [_input(opened.file, value) for value in values]
    unknown = next((each.name for each in inputs if each.name not in given and not is_made(each.name)), None)
    if unknown is not None:
        message = f"{opened.file}: the graph takes {unknown}, which nothing gives"
        raise RunError("E608", message, "compare it with a row that has it, or export it with other inputs")
    return Fed(opened=opened, feeds=feeds(inputs, given, cached=cached))


def _input(file: Path, value: Any) -> Input:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return input_of(file, value.name, dtype.name, [dim.dim_value for dim in kind.shape.dim])


def _unreadable(file: Path, error: Exception) -> RunError:
    message = f"{file}: its values can't be looked at one by one: {first_line(error)}"
    return RunError("E608", message, "give a graph that onnxruntime runs on the CPU")
