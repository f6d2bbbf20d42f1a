"""The values inside of graphs that are written out by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.errors import RunError

onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
from onnx import TensorProto, helper  # noqa: E402  (where it is installed)

from runtimes.export.intermediates import feed, open_graph, portions, portions_of, values_of  # noqa: E402  (likewise)

FLOAT = TensorProto.FLOAT
X = np.array([1.0, 2.0], np.float32)


def save(path: Path, nodes: list[Any], functions: list[Any], *, inputs: tuple[tuple[str, int], ...]) -> Path:
    """A graph that gives y."""
    values = [helper.make_tensor_value_info(name, kind, [2] if kind == FLOAT else []) for name, kind in inputs]
    graph = helper.make_graph(nodes, "graph", values, [helper.make_tensor_value_info("y", FLOAT, [2])])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("own", 1)] if functions else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9), path)
    return path


def test_values_inside_of_a_function_of_the_file_are_seen(tmp_path: Path) -> None:
    inside = [helper.make_node("Exp", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    twice = helper.make_function("own", "Twice", ["a"], ["c"], inside, [helper.make_opsetid("", 18)])
    node = helper.make_node("Twice", ["x"], ["y"], domain="own")
    opened = open_graph(save(tmp_path / "m.onnx", [node], [twice], inputs=(("x", FLOAT),)))
    found = [array for _, array in values_of(feed(opened, {"x": X}, cached=False))]
    assert any(np.allclose(array, np.exp(X)) for array in found)
    assert any(np.allclose(array, -np.exp(X)) for array in found)


def test_a_graph_that_is_inside_of_a_branch_is_one_error(tmp_path: Path) -> None:
    inside = [helper.make_node("Exp", ["x"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    branch = helper.make_graph(inside, "branch", [], [helper.make_tensor_value_info("c", FLOAT, [2])])
    node = helper.make_node("If", ["use_cache_branch"], ["y"], then_branch=branch, else_branch=branch)
    inputs = (("x", FLOAT), ("use_cache_branch", TensorProto.BOOL))
    with pytest.raises(RunError, match="4 of its 5 operators are inside of If, of which only what comes out is seen"):
        open_graph(save(tmp_path / "m.onnx", [node], [], inputs=inputs))


def test_values_are_asked_for_by_their_bytes(tmp_path: Path) -> None:
    """Sixteen bytes each, as no shape says how wide a number is."""
    names = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("Exp", [one], [other]) for one, other in pairwise(names)]
    one = feed(open_graph(save(tmp_path / "m.onnx", nodes, [], inputs=(("x", FLOAT),))), {"x": X / 9}, cached=False)
    whole, halves = ([*portions_of(one, most=most)] for most in (1 << 20, 40))
    assert [[*portion] for portion in whole] == [["a", "b", "c", "y"]]
    assert [[*portion] for portion in halves] == [["a", "b"], ["c", "y"]]
    assert all(np.array_equal(array, whole[0][name]) for portion in halves for name, array in portion.items())
    assert [[*portion] for portion in portions_of(one, {"c", "a"}, most=1)] == [["a"], ["c"]]
    assert [*portions_of(one, {"something else"})] == []


def test_the_parts_of_a_sequence_are_seen(tmp_path: Path) -> None:
    one = helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("zero", TensorProto.INT64, [], [0]))
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"]),
        one,
        helper.make_node("SequenceAt", ["parts", "zero"], ["part"]),
        helper.make_node("Add", ["x", "part"], ["y"]),
    ]
    opened = open_graph(save(tmp_path / "m.onnx", nodes, [], inputs=(("x", FLOAT),)))
    found = dict(values_of(feed(opened, {"x": X}, cached=False)))
    assert found["part"].tolist() == [1.0]
    assert "parts" not in found


def test_a_function_that_calls_itself_is_one_error(tmp_path: Path) -> None:
    again = [helper.make_node("Again", ["a"], ["c"], domain="own")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Again", ["a"], ["c"], again, opsets)
    node = helper.make_node("Again", ["x"], ["y"], domain="own")
    with pytest.raises(RunError) as raised:
        open_graph(save(tmp_path / "m.onnx", [node], [function], inputs=(("x", FLOAT),)))
    assert raised.value.code == "E608"


def test_a_portion_is_one_value_where_that_is_larger() -> None:
    assert [*portions({"a": 3, "b": 9, "c": 1, "d": 2}, 4)] == [["a"], ["b"], ["c", "d"]]
    assert [*portions({}, 4)] == []
