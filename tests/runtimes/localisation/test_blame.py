"""Alignment and blame over a source and a graph that are written out: no framework, every value by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from runtimes.localisation.alignment import align, tolerances
from runtimes.localisation.digest import digest
from runtimes.localisation.finding import Localised
from runtimes.localisation.rounding import error_of, search_rounded
from runtimes.localisation.search import search
from runtimes.localisation.values import Array, Graph, Node, Recorded, Source, difference, is_telling, scale_of

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(1, 5, 4)).astype(np.float32)
W1, W2 = (RANDOM.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
HEAD = RANDOM.normal(size=(3, 6)).astype(np.float32)
ALLOWED = 1e-4


def source() -> Source:
    """Two products of one value, their product, and logits of it."""
    one, two = X @ W1.T, X @ W2.T
    values = [
        ("embed", "embedding", X, (), ()),
        ("one", "linear", one, (0,), ("one.weight",)),
        ("two", "linear", two, (0,), ("two.weight",)),
        ("gate", "mul", one * two, (1, 2), ()),
        ("head", "linear", (one * two) @ HEAD.T, (3,), ("head.weight",)),
    ]
    return Source(
        values=tuple(
            Recorded(
                layer=layer, operation=operation, held=digest(array), needs=needs, parameters=names, allowed=ALLOWED
            )
            for layer, operation, array, needs, names in values
        ),
        modules=(("embed", 0), ("one", 1), ("two", 2), ("gate", 3), ("head", 4)),
        results={"logits": 4},
        parameters={"one.weight": W1, "two.weight": W2, "head.weight": HEAD},
    )


NODES = (
    ("Gather", ("table", "ids"), "x"),
    ("MatMul", ("x", "w1"), "a"),
    ("MatMul", ("x", "w2"), "b"),
    ("Mul", ("a", "b"), "c"),
    ("MatMul", ("c", "w3"), "logits"),
)


def graph(weights: Mapping[str, Array]) -> Graph:
    nodes = tuple(
        Node(op_type=kind, name=f"node_{output}", inputs=inputs, outputs=(output,)) for kind, inputs, output in NODES
    )
    return Graph(
        nodes=nodes,
        inputs=("ids",),
        outputs=("logits",),
        weights={name: (lambda array=array: array) for name, array in weights.items()},  # type: ignore[misc]
    )


def searched(w1: Array = W1.T, w2: Array = W2.T, w3: Array = HEAD.T, **changed: Array) -> Localised:
    """What is found of the graph with these weights; `changed`: values of it by name."""
    values = {"x": X, "a": X @ w1, "b": X @ w2}
    values["c"] = changed.get("c", values["a"] * values["b"])
    values["logits"] = changed.get("logits", values["c"] @ w3)
    return search(source(), graph({"w1": w1, "w2": w2, "w3": w3}), values.items(), (7,))


def test_equal_values_are_found_whatever_they_are_called() -> None:
    found = searched()
    assert found.says().startswith("row 7: no layer leaves the noise")
    assert [layer.layer for layer in found.layers] == ["embed", "one", "two", "gate", "head"]
    assert all(layer.right for layer in found.layers)


@pytest.mark.parametrize(
    ("weights", "layer", "note"),
    [
        ({"w1": W1.T * 1.01}, "one", "w1 is 1.01 times the source's one.weight"),
        ({"w2": W2.T * 0.5}, "two", "w2 is 0.5 times the source's two.weight"),
        ({"w2": W1.T}, "two", "w2 equals the source's one.weight, and should be two.weight"),
        ({"w1": W1.T[:, ::-1]}, "one", "w1 is one.weight with its values in another order"),
        ({"w1": np.zeros_like(W1.T)}, "one", "w1 is zero, and should be one.weight"),
        ({"w3": HEAD.T.round(1)}, "head", "w3 is head.weight rounded, off by up to 0.049 of 2.2"),
    ],
)
def test_a_weight_that_differs_is_described(weights: Mapping[str, Array], layer: str, note: str) -> None:
    found = searched(**weights)
    assert (found.layer, found.rows) == (layer, (7,))
    assert found.note.startswith(note)
    assert found.operator is not None and found.operator.op_type == "MatMul"


def test_an_operator_that_computes_otherwise_is_named_when_what_it_reads_is_right() -> None:
    found = searched(c=(X @ W1.T) + (X @ W2.T))
    assert found.layer == "gate" and found.operator is not None
    assert str(found.operator) == "Mul node_c"
    assert found.note.startswith("what it reads is the source's")


def test_an_answer_in_another_order_is_wrong_though_its_values_are_all_there() -> None:
    right = (X @ W1.T * (X @ W2.T)) @ HEAD.T
    found = searched(logits=right[..., ::-1])
    assert found.layer == "head"


def test_a_value_that_is_inside_of_a_fused_operator_is_not_wrong() -> None:
    """The graph has neither product, but what is made of both."""
    values = {"x": X, "c": (X @ W1.T) * (X @ W2.T)}
    values["logits"] = values["c"] @ (HEAD.T * 1.01)
    fused = (
        Node(op_type="Fused", name="node_c", inputs=("x", "w1", "w2"), outputs=("c",)),
        Node(op_type="MatMul", name="node_logits", inputs=("c", "w3"), outputs=("logits",)),
    )
    weights = {"w1": W1, "w2": W2, "w3": HEAD.T * 1.01}
    found = search(source(), replace(graph(weights), nodes=fused), values.items(), (0,))
    assert (found.layer, found.note) == ("head", "w3 is 1.01 times the source's head.weight")
    assert [layer.layer for layer in found.layers] == ["embed", "gate", "head"]


def test_a_value_is_found_with_its_axes_turned_but_not_in_another_order() -> None:
    turned = X.transpose(0, 2, 1)
    assert align(source(), [("t", turned)]).names["t"] == (0,)
    assert align(source(), [("t", turned[:, ::-1])]).names["t"] == ()


def test_a_mask_or_a_constant_can_be_mistaken() -> None:
    least = np.finfo(np.float32).min
    assert not is_telling(np.array([0, least, 0], np.float32))
    assert not is_telling(np.ones((3, 3), np.float32))
    assert is_telling(np.array([0, least, 1], np.float32))
    assert difference(np.array([least, 1.0]), np.array([-np.inf, 1.0])) == 0
    assert difference(np.array([np.nan]), np.array([1.0])) == np.inf


def test_what_is_rounding_follows_from_each_values_own_noise_and_scale() -> None:
    one, masked = np.array([1.0, -2.0], np.float32), np.array([1.0, -3e38], np.float32)
    scales = (scale_of(one), scale_of(masked))
    assert tolerances(scales, (0.0, 1e-3), 8.0, 32) == (32 * np.spacing(np.float32(2)), 8e-3)


def test_of_rounded_layers_that_is_named_which_adds_most() -> None:
    exact = {"a": X @ W1.T, "b": X @ W2.T}
    rounded = {"a": exact["a"] * 1.01, "b": exact["b"] * 1.2}
    errors = {name: error_of(exact[name], rounded[name]) for name in exact}
    assert errors["b"].relative == pytest.approx(0.2, rel=1e-5)
    found = search_rounded(source(), {1: ("one", "a"), 2: ("two", "b")}, errors, graph({}), (3,))
    assert found.layer == "two" and found.rounded
    assert found.note.startswith("of what it gives 20.0% is wrong, of what it reads 0.0%; then one adds 1.0%")
    assert found.lines()[0] == "row 3: two adds most to the error of rounding"
    assert error_of(exact["a"], exact["a"][:, :2]).relative == np.inf
