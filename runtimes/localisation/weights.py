"""What is wrong about a constant of a graph, held against the parameters of its source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from runtimes.localisation.values import Array, Graph, Node, Recorded, Source

EQUAL = 1e-6
"""Of the largest value: two arrays that differ by less are the same."""
ROUNDED = 0.05
"""Likewise: one that differs by less is the other in fewer bits."""
_SHOWN = 4


def faults_of(
    node: Node, value: Recorded, source: Source, graph: Graph, integers: Mapping[str, Array]
) -> Iterator[str]:
    """What an operator reads otherwise than the source did when it computed a value: weights, and rows of a table."""
    for name in dict.fromkeys(node.inputs):
        if name not in graph.weights:
            continue
        array = graph.weights[name]()
        if array.dtype.kind == "f" and array.size > 1:
            yield from weight_faults(name, array, node, value, source.parameters)
    if node.op_type == "Gather" and len(value.indices) == 1:
        read = integers.get(node.inputs[1], None)
        if read is not None:
            yield from index_faults(read, value.indices[0])


def weight_faults(
    name: str, array: Array, node: Node, value: Recorded, parameters: Mapping[str, Array]
) -> Iterator[str]:
    """How a constant differs from the parameters that the source computed a value with; nothing where it does not."""
    own = {each: parameters[each] for each in value.parameters if parameters[each].size == array.size}
    if not own:
        return
    if equal := next((each for each, expected in own.items() if _is_same(array, expected)), None):
        if _is_unturned(array, own[equal], node, value):
            yield f"{name} is {equal}, transposed"
        return
    fitting = {each: _laid(array, expected) for each, expected in own.items()}
    nearest = min(own, key=lambda each: float(np.abs(fitting[each] - own[each]).max()))
    yield f"{name} {_compared(fitting[nearest], nearest, own[nearest], array, parameters)}"


def _compared(array: Array, name: str, expected: Array, raw: Array, parameters: Mapping[str, Array]) -> str:
    """In words, how an array differs from the parameter that it should be."""
    other = next((each for each, values in parameters.items() if each != name and _is_same(raw, values)), None)
    if other is not None and np.ptp(raw):
        return f"equals the source's {other}, and should be {name}"
    one, two = array.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    largest, squares = float(np.abs(two).max()), float(two @ two)
    factor = float(one @ two) / squares if squares else 0.0
    if factor and np.abs(one - factor * two).max() <= EQUAL * max(largest, largest * abs(factor)):
        return f"is {factor:.4g} times the source's {name}"
    off = float(np.abs(one - two).max())
    count = int((np.abs(one - two) > EQUAL * largest).sum())
    if count > one.size // 2 and off <= ROUNDED * largest:
        return f"is {name} rounded, off by up to {off:.2g} of {largest:.2g}"
    if not one.any():
        return f"is zero, and should be {name}"
    if np.abs(np.sort(one) - np.sort(two)).max() <= EQUAL * largest:
        return f"is {name} with its values in another order"
    return f"differs from {name} in {count} of {one.size} values, by up to {off:.2g} of {largest:.2g}"


def _turns(array: Array) -> tuple[Array, ...]:
    """An array, and that with its last axes turned."""
    return (array, np.swapaxes(array, -1, -2)) if array.ndim > 1 else (array,)


def _is_same(array: Array, expected: Array) -> bool:
    """Whether two hold the same, in any layout."""
    if array.size != expected.size:
        return False
    limit = EQUAL * float(np.abs(expected).max(initial=0.0))
    return any(float(np.abs(each.ravel() - expected.ravel()).max(initial=0.0)) <= limit for each in _turns(array))


def _laid(array: Array, expected: Array) -> Array:
    """The array in the layout of a parameter, that in which it is nearer to it."""
    turned = [each.reshape(expected.shape) for each in _turns(array)]
    return min(turned, key=lambda each: float(np.abs(each - expected).max()))


def _is_unturned(array: Array, expected: Array, node: Node, value: Recorded) -> bool:
    """Whether a product reads a square matrix that stands the wrong way."""
    square = array.ndim == 2 and array.shape[0] == array.shape[1]
    if not square or not value.operation.startswith("linear") or node.op_type not in ("MatMul", "Gemm"):
        return False
    as_it_is = "transB=1" in node.attributes
    limit = EQUAL * float(np.abs(expected).max())
    return bool(np.abs((array if as_it_is else array.T) - expected).max() > limit)


def index_faults(found: Array, expected: Array) -> Iterator[str]:
    """Where an operator reads other rows of a table than the source did."""
    one, two = found.ravel(), expected.ravel()
    if one.size and two.size % one.size == 0:
        one = np.tile(one, two.size // one.size)
    elif two.size and one.size % two.size == 0:
        two = np.tile(two, one.size // two.size)
    else:
        yield f"it reads {one.size} rows of its table, the source {two.size}"
        return
    differ = np.flatnonzero(one != two)
    if differ.size:
        first = int(differ[0])
        shown = f"{_some(one[first:])} at place {first} on, where the source reads {_some(two[first:])}"
        yield f"it reads other rows of its table: {shown}"


def _some(values: Array) -> str:
    told = ", ".join(str(int(value)) for value in values[:_SHOWN])
    return told + (", ..." if values.size > _SHOWN else "")
