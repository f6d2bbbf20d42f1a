"""Graphs in fewer bits: made by hand, so that what is rounded is known."""

# Axes: B = rows, I = inputs, O = outputs

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

import onnx
from onnx import TensorProto, helper, numpy_helper

from compiler.recipe import Onnx, Precision
from runtimes.errors import RunError
from runtimes.export.facts import data_file
from runtimes.export.rounding import Rounded, round_graph
from runtimes.export.session import open_session

WEIGHT_IO = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
INPUT_BI = np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32)


def save(folder: Path, *nodes: onnx.NodeProto, **weights: np.ndarray) -> Path:
    graph = helper.make_graph(
        [*nodes],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "in.onnx")
    return folder / "in.onnx"


def rounded(graph: Path, precision: Precision, *, weights_alone: bool = False) -> tuple[Rounded, np.ndarray]:
    out = graph.parent / "out" / "model.onnx"
    rows = [{"x": INPUT_BI}] if precision == "int8-static" else []
    found = round_graph(Onnx(precision=precision), graph, out, weights_alone=weights_alone, rows=rows)
    assert [file.name for file in out.parent.iterdir()] == ["model.onnx"]
    return found, open_session(out).outputs({"x": INPUT_BI})


@pytest.mark.parametrize(
    ("precision", "weights_alone", "steps"),
    [
        ("fp16", False, 2**11),
        ("int8", False, 2**6),
        ("int8-static", False, 2**6),
        ("int8", True, 2**7),
        ("int4", True, 2**3),
    ],
)
def test_products_are_off_by_about_a_step_of_their_numbers(
    tmp_path: Path, precision: Precision, weights_alone: bool, steps: int
) -> None:
    """Of 64 products each factor is off by at most a step of its range: the errors add up as a random walk does."""
    graph = save(tmp_path, helper.make_node("MatMul", ["x", "w"], ["logits"]), w=WEIGHT_IO)
    found, outputs_BO = rounded(graph, precision, weights_alone=weights_alone)
    error = np.abs(outputs_BO - INPUT_BI @ WEIGHT_IO).max()
    ranges = np.abs(WEIGHT_IO).max() * np.abs(INPUT_BI).max()
    assert 0 < error < 4 * 8 * ranges / steps
    assert (found.rounded, found.weighed) == (1, 1)


def test_a_graph_without_weights_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    graph = save(tmp_path, helper.make_node("Relu", ["x"], ["logits"]))
    with pytest.raises(RunError, match="none of its 0 layers") as caught:
        rounded(graph, "int4")
    assert caught.value.code == "E509"
    assert not list((tmp_path / "out").iterdir())


def test_a_weight_that_is_turned_while_the_graph_runs_is_rounded_too(tmp_path: Path) -> None:
    nodes = (
        helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["logits"]),
    )
    found, outputs_BO = rounded(save(tmp_path, *nodes, w=WEIGHT_IO.T.copy()), "int8", weights_alone=True)
    assert found.rounded == 1
    np.testing.assert_allclose(outputs_BO, INPUT_BI @ WEIGHT_IO, atol=1.0)


def test_many_weights_lie_beside_the_graph_by_the_name_that_clients_look_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = save(tmp_path, helper.make_node("MatMul", ["x", "w"], ["logits"]), w=WEIGHT_IO)
    monkeypatch.setattr("runtimes.export.rounding.LARGEST_INSIDE", 1024)
    for precision in ("fp16", "int8", "int8-static", "int4"):
        out = tmp_path / precision / "model.onnx"
        round_graph(Onnx(precision=precision), graph, out, weights_alone=False, rows=[{"x": INPUT_BI}])
        assert {file.name for file in out.parent.iterdir()} == {out.name, data_file(out).name}, precision
        assert open_session(out).outputs({"x": INPUT_BI}).shape == (5, 48)
