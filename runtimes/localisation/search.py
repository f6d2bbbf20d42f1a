"""From a source's values and a graph's to what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runtimes.localisation.alignment import Alignment, align
from runtimes.localisation.blame import Culprit, culprit, lost_inputs, wrong_numbers
from runtimes.localisation.finding import Constant, LayerDelta, Localised, Operator
from runtimes.localisation.values import Array, Graph, Node, Source

_SHOWN = 6
OTHERWISE = "what it reads is the source's, its weights too: it computes otherwise"
UNOPTIMIZED = (
    "the graph was run as it is written; where the session that is deployed differs, onnxruntime's optimizations do it"
)


def search(source: Source, graph: Graph, values: Iterable[tuple[str, Array]], rows: tuple[int, ...]) -> Localised:
    """The first layer of the source that the graph computes otherwise. `values`: those of the graph, by name."""
    alignment = align(source, values)
    found = culprit(source, graph, alignment)
    layers = tuple(_layers(source, alignment))
    if found is None:
        return Localised(
            rows=rows,
            note=UNOPTIMIZED,
            layers=layers,
        )
    value, near = source.values[found.number], alignment.near[found.number]
    return Localised(
        rows=rows,
        layer=value.layer or "the model's own code",
        operation=value.operation,
        operator=operator_of(found.node, graph) if found.node else None,
        max_abs=near.max_abs if near else None,
        allowed=value.allowed,
        note=found.note or _note(found, source, graph),
        layers=layers,
    )


def operator_of(node: Node, graph: Graph) -> Operator:
    """An operator as it is told of."""
    constants = tuple(_constants(node, graph))
    return Operator(
        op_type=node.op_type, name=node.name, attributes=node.attributes, file=node.file, constants=constants
    )


def _constants(node: Node, graph: Graph) -> Iterator[Constant]:
    for name in node.inputs:
        if name in graph.weights:
            array = graph.weights[name]()
            value = float(array.ravel()[0]) if array.size == 1 and array.dtype.kind in "fiu" else None
            yield Constant(name=name, shape=array.shape, value=value)


def _note(found: Culprit, source: Source, graph: Graph) -> str:
    """What there is to say where no weight differs."""
    if found.node is None:
        return "the graph lacks it"
    unread = [name for name, reads in lost_inputs(graph, found.node, _masks(graph)).items() if not reads]
    if unread and _is_masked(found, source):
        return f"what it reads does not depend on {', '.join(unread)}"
    said = OTHERWISE
    if 1 < len(found.region) <= _SHOWN:
        said += f", or one after it: {', '.join(node.op_type for node in found.region[1:])}"
    return said


def _masks(graph: Graph) -> Iterator[str]:
    return (name for name in graph.inputs if name.endswith("attention_mask"))


def _is_masked(found: Culprit, source: Source) -> bool:
    """Whether the source computed a value from a mask: from something that holds no numbers of its own."""
    return any(not source.values[number].held.telling for number in source.values[found.number].needs)


def _layers(source: Source, alignment: Alignment) -> Iterator[LayerDelta]:
    """Every layer whose value the graph has, or should have, in the order in which they ended."""
    wrong = wrong_numbers(source, alignment)
    for layer, number in source.modules:
        right, near = alignment.right[number], alignment.near[number]
        if right is None and number not in wrong:
            continue  # the graph has it inside of another operator
        found, scale = right or near, source.values[number].held.scale
        yield LayerDelta(
            layer=layer or "the model itself",
            max_abs=found.max_abs if found else None,
            relative=found.max_abs / scale if found and scale else None,
            allowed=source.values[number].allowed,
            right=right is not None,
        )
