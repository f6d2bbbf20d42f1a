"""Faults put into an ONNX file itself, as an exporter, an optimizer or a hand might."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Damage = Callable[[Any], None]


def damaged(file: Path, damage: Damage, out: Path) -> Path:
    """The file `out`, with a fault put into a copy of a graph."""
    model = onnx.load(file)
    damage(model.graph)
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, out)
    return out


def nothing(graph: Any) -> None:
    """The graph as it is."""


def products(graph: Any) -> list[Any]:
    """The operators that multiply by a weight, in order."""
    weights = {tensor.name for tensor in graph.initializer}
    kinds = ("MatMul", "Gemm", "Conv")
    return [node for node in graph.node if node.op_type in kinds and node.input[1] in weights]


def of_type(graph: Any, op_type: str) -> list[Any]:
    """The operators of a type, in order."""
    return [node for node in graph.node if node.op_type == op_type]


def change(graph: Any, name: str, changed: Callable[[np.ndarray], np.ndarray]) -> None:
    """Puts other values into a weight."""
    [tensor] = [tensor for tensor in graph.initializer if tensor.name == name]
    values = np.ascontiguousarray(changed(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def weight(number: int, changed: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Changes the weight of one of the products."""
    return lambda graph: change(graph, products(graph)[number].input[1], changed)


def scaled(number: int, factor: float = 1.01) -> Damage:
    """Scales the weight of one of the products."""
    return weight(number, lambda values: values * np.float32(factor))


def swapped(one: int, other: int) -> Damage:
    """Has two products read each other's weight."""

    def damage(graph: Any) -> None:
        first, second = products(graph)[one], products(graph)[other]
        first.input[1], second.input[1] = second.input[1], first.input[1]

    return damage


def attribute(op_type: str, number: int, **values: Any) -> Damage:
    """Changes attributes of an operator, by its type and its number among those."""

    def damage(graph: Any) -> None:
        node = of_type(graph, op_type)[number]
        kept = [one for one in node.attribute if one.name not in values]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])

    return damage


def insert(graph: Any, before: Any, node: Any, **constants: np.ndarray) -> None:
    """Puts an operator before another one."""
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    graph.node.insert([each.name for each in graph.node].index(before.name), node)


def unmasked(graph: Any) -> None:
    """Attention sees padding: what is added to the scores is the scores' own zero."""
    [mask] = {node.input[1] for node in of_type(graph, "Add") if node.input[1] == of_type(graph, "Where")[-1].output[0]}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == mask:
                node.input[place] = "no_mask"
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), "no_mask"))


def positions_restarted(graph: Any) -> None:
    """Positions begin again after four tokens."""
    lookup = of_type(graph, "Gather")[-1]
    [lookup] = [node for node in of_type(graph, "Gather") if "position" in node.input[0]]
    insert(graph, lookup, helper.make_node("Mod", [lookup.input[1], "four"], ["begun"]), four=np.array(4, np.int64))
    lookup.input[1] = "begun"


def positions_cut(graph: Any) -> None:
    """No token has a position beyond the fifth."""
    [lookup] = [node for node in of_type(graph, "Gather") if "position" in node.input[0]]
    insert(graph, lookup, helper.make_node("Min", [lookup.input[1], "last"], ["cut"]), last=np.array(5, np.int64))
    lookup.input[1] = "cut"


def labels_reversed(graph: Any) -> None:
    """The logits come in another order."""
    [last] = [node for node in graph.node if "logits" in node.output]
    last.output[0] = "in_order"
    order = np.array([2, 1, 0], np.int64)
    graph.initializer.append(numpy_helper.from_array(order, "reversed"))
    graph.node.append(helper.make_node("Gather", ["in_order", "reversed"], ["logits"], axis=1))


def sine_for_cosine(graph: Any) -> None:
    """Positions are turned by the wrong function."""
    of_type(graph, "Cos")[0].op_type = "Sin"


def norm_constant(number: int, value: float) -> Damage:
    """Changes what is added under the root of a norm."""

    def damage(graph: Any) -> None:
        roots = [node.input[0] for node in of_type(graph, "Sqrt")]
        add = next(node for node in graph.node if node.output[0] == roots[number])
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), "other"))
        add.input[1] = "other"

    return damage


def cache_turned(name: str) -> Damage:
    """A cache that comes back with its positions in another order."""

    def damage(graph: Any) -> None:
        present = name.replace("past_key_values", "present")
        [joined] = [node for node in graph.node if present in node.output]
        bounds = {"first": [0], "second": [1], "end": [2**31], "axis": [2]}
        arrays = {each: np.array(values, np.int64) for each, values in bounds.items()}
        insert(graph, joined, helper.make_node("Slice", [name, "second", "end", "axis"], ["later"]), **arrays)
        insert(graph, joined, helper.make_node("Slice", [name, "first", "second", "axis"], ["earlier"]))
        insert(graph, joined, helper.make_node("Concat", ["later", "earlier"], ["turned"], axis=2))
        joined.input[0] = "turned"

    return damage
