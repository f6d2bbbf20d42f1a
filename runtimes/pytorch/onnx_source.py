"""The attention of a decoder to its source, rewritten to compute the source's keys and values in the first step only.

A traced decoder computes them of encoder_hidden_states in every step, and then chooses by use_cache_branch between them
and those that were kept: `Where(use_cache_branch, past_key_values.{i}.encoder.key, computed)`. The rewritten graph
differs in two places. The projections are given encoder_hidden_states cut to no tokens once there is a cache, so they
cost nothing; they stay where quantizers look for products, and each weight is in the file once. Each attention is an
`If`, of which one branch reads what was projected and the other what was kept, where it lies: choosing between the two
by value would copy all of it in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir

from runtimes.export.facts import PAST
from runtimes.pytorch.onnx_graph import UNTRACEABLE, ExportError

CACHED = "use_cache_branch"
"""[1] bool: whether the source's keys and values are given."""
HIDDEN = "encoder_hidden_states"
_HALF = ".encoder."
_ALL = np.iinfo(np.int64).max


def compute_source_once(model: onnx_ir.Model) -> None:
    """Rewrites the traced decoder in place. Raises ExportError when its attention is of another kind."""
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    past = [value for name, value in inputs.items() if name.startswith(PAST) and _HALF in name]
    _measure_source(graph, past, inputs[HIDDEN])
    projections = _cut_source(graph, inputs[HIDDEN], inputs[CACHED])
    for key, value in zip(past[::2], past[1::2], strict=True):
        _branch(graph, _choice(key, inputs[CACHED]), _choice(value, inputs[CACHED]), projections)
    for value in past:
        value.shape = _with_tokens(value, "past source")


def _measure_source(graph: onnx_ir.Graph, past: Iterable[onnx_ir.Value], hidden: onnx_ir.Value) -> None:
    """Has sizes read of `hidden` that the trace read of what is kept, where the first step has nothing."""
    axis_of = {0: 0, 2: 1}  # [B, H, T, D] against [B, T, ...]
    for value in past:
        for node in [use.node for use in value.uses() if use.node.op_type == "Shape"]:
            start = node.attributes["start"].as_int()
            if start not in axis_of or node.attributes["end"].as_int() != start + 1:
                raise ExportError(f"the decoder reads the shape of {value.name}", UNTRACEABLE)
            at = axis_of[start]
            size = onnx_ir.node("Shape", [hidden], {"start": at, "end": at + 1})
            _name_like(size.outputs[0], node.outputs[0], str(node.outputs[0].name))
            graph.insert_before(node, size)
            node.outputs[0].replace_all_uses_with(size.outputs[0])
            graph.remove(node, safe=True)


def _cut_source(graph: onnx_ir.Graph, hidden: onnx_ir.Value, cached: onnx_ir.Value) -> set[onnx_ir.Node]:
    """The projections of `hidden`, which are given none of its tokens once there is a cache."""
    products = [use.node for use in hidden.uses() if use.node.op_type == "MatMul"]
    none, start, axis, every = (
        _constant(graph, f"source.{name}", number)
        for name, number in (("none", 0), ("start", 0), ("axis", 1), ("every", _ALL))
    )
    end = onnx_ir.node("Where", [cached, none, every])
    cut = onnx_ir.node("Slice", [hidden, start, end.outputs[0], axis])
    end.outputs[0].name = "source.end"
    cut.outputs[0].name, cut.outputs[0].type = "source.cut", hidden.type
    cut.outputs[0].shape = _with_tokens(hidden, "computed source", axis=1)
    graph.insert_before(graph[0], [end, cut])
    for node in products:
        node.replace_input_with(0, cut.outputs[0])
    biased = [use.node for node in products for use in node.outputs[0].uses() if use.node.op_type == "Add"]
    return {*products, *biased}


def _choice(kept: onnx_ir.Value, cached: onnx_ir.Value) -> onnx_ir.Node:
    """Where the trace chooses between what was kept and what was computed."""
    found = [use.node for use in kept.uses() if use.node.op_type == "Where" and use.node.inputs[0] is cached]
    if len(found) != 1:
        raise ExportError(f"the decoder does not read {kept.name} once", UNTRACEABLE)
    return found[0]


def _branch(graph: onnx_ir.Graph, key: onnx_ir.Node, value: onnx_ir.Node, projections: set[onnx_ir.Node]) -> None:
    """Puts the attention that reads two choices into an `If`, and the shaping of what it reads into its first step."""
    choices = (key, value)
    kept = {node.outputs[0]: _input(node, 1) for node in choices}
    computed = {node.outputs[0]: _input(node, 2) for node in choices}
    attention = _attention(graph, key.outputs[0], value.outputs[0])
    shaping = _only_for(graph, {*choices}, projections)
    result = attention[-1].outputs[0]

    steps = [*_cloned(attention, kept, ".cached")]
    nothing = [*_nothing(graph, kept.values())]
    later = onnx_ir.Graph(
        [],
        [steps[-1].outputs[0], *(node.outputs[0] for node in nothing)],
        nodes=[*steps, *nothing],
        name=f"{result.name}.later",
    )
    found = [result, *computed.values()]
    chosen = [_chosen(value) for value in found]
    for outer, inner in zip(chosen[1:], found[1:], strict=True):
        outer.shape = _with_tokens(inner, "computed source")
    result.replace_all_uses_with(chosen[0])
    _put_out(graph, dict(zip(found[1:], chosen[1:], strict=True)))

    place = _after(attention[-1])
    graph.remove([*attention, *shaping])
    for node in choices:
        node.outputs[0].replace_all_uses_with(computed[node.outputs[0]])
        graph.remove(node)
    first = onnx_ir.Graph([], found, nodes=[*shaping, *attention], name=f"{result.name}.first")
    branches = {"then_branch": later, "else_branch": first}
    graph.insert_before(place, onnx_ir.node("If", [key.inputs[0]], branches, outputs=chosen))


def _chosen(value: onnx_ir.Value) -> onnx_ir.Value:
    """What an `If` makes of a value in its branches."""
    found = onnx_ir.Value(name=f"{value.name}.chosen", type=value.type)
    found.shape = value.shape
    return found


def _put_out(graph: onnx_ir.Graph, instead: Mapping[onnx_ir.Value, onnx_ir.Value]) -> None:
    """Has the graph give other values by the names of those that it gave."""
    for at, output in enumerate(graph.outputs):
        if output in instead:
            graph.outputs[at] = instead[output]
            instead[output].name, output.name = output.name, f"{output.name}.computed"


def _after(node: onnx_ir.Node) -> onnx_ir.Node:
    """The node that comes next: attention is never the last."""
    graph = node.graph
    assert isinstance(graph, onnx_ir.Graph), "a node of the traced graph"
    return graph[graph.index(node) + 1]


def _input(node: onnx_ir.Node, at: int) -> onnx_ir.Value:
    found = node.inputs[at]
    assert found is not None, "a choice has three inputs"
    return found


def _attention(graph: onnx_ir.Graph, key: onnx_ir.Value, value: onnx_ir.Value) -> list[onnx_ir.Node]:
    """The nodes from keys and values to the first that depends on both, in their order."""
    of_key, of_value, found = {key}, {value}, []
    for node in graph:
        reads_key, reads_value = not of_key.isdisjoint(node.inputs), not of_value.isdisjoint(node.inputs)
        if reads_key or reads_value:
            found.append(node)
        if reads_key and reads_value:
            break
        (of_key if reads_key else of_value if reads_value else set()).update(node.outputs)
    inside = {*found}
    outside = [use for node in found[:-1] for out in node.outputs for use in out.uses() if use.node not in inside]
    if outside or not (found and len(found[-1].outputs) == 1):
        raise ExportError(f"the decoder's attention to {key.name} is read in several places", UNTRACEABLE)
    return found


def _only_for(graph: onnx_ir.Graph, readers: set[onnx_ir.Node], projections: set[onnx_ir.Node]) -> list[onnx_ir.Node]:
    """The nodes after the projections that nothing but `readers` needs, in their order."""
    found: list[onnx_ir.Node] = []
    needed = {*readers}
    for node in reversed(graph):
        users = {use.node for output in node.outputs for use in output.uses()}
        if users and users <= needed and node not in projections and not _projects(node, projections):
            needed.add(node)
            found.insert(0, node)
    return found


def _projects(node: onnx_ir.Node, projections: set[onnx_ir.Node]) -> bool:
    """Whether a node is needed by a projection."""
    return any(use.node in projections for output in node.outputs for use in output.uses())


def _cloned(
    nodes: Sequence[onnx_ir.Node], given: Mapping[onnx_ir.Value, onnx_ir.Value], suffix: str
) -> Iterator[onnx_ir.Node]:
    """The same nodes over other values."""
    values = dict(given)
    for node in nodes:
        inputs = [values.get(value, value) if value is not None else None for value in node.inputs]
        copy = onnx_ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            _name_like(new, old, f"{old.name}{suffix}")
            values[old] = new
        yield copy


def _nothing(graph: onnx_ir.Graph, kept: Iterable[onnx_ir.Value]) -> Iterator[onnx_ir.Node]:
    """No tokens of what was kept: a later step computes none."""
    none, axis = _constant(graph, "source.none", 0), _constant(graph, "source.tokens", 2)
    for value in kept:
        cut = onnx_ir.node("Slice", [value, none, none, axis])
        _name_like(cut.outputs[0], value, f"{value.name}.none")
        cut.outputs[0].shape = _with_tokens(value, 0)
        yield cut


def _constant(graph: onnx_ir.Graph, name: str, number: int) -> onnx_ir.Value:
    """[1] int64, once in the graph by its name."""
    if name not in graph.initializers:
        tensor = onnx_ir.tensor(np.array([number], np.int64), name=name)
        graph.register_initializer(
            onnx_ir.Value(
                name=name, const_value=tensor, shape=onnx_ir.Shape([1]), type=onnx_ir.TensorType(tensor.dtype)
            )
        )
    return graph.initializers[name]


def _name_like(value: onnx_ir.Value, other: onnx_ir.Value, name: str) -> None:
    value.name, value.type, value.shape = name, other.type, other.shape


def _with_tokens(value: onnx_ir.Value, tokens: str | int, *, axis: int = 2) -> onnx_ir.Shape:
    """The shape of a value, of as many tokens."""
    dims = [*(value.shape or ())]
    dims[axis] = tokens if isinstance(tokens, int) else onnx_ir.SymbolicDim(tokens)
    return onnx_ir.Shape(dims)
