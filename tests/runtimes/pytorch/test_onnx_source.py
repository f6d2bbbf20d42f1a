"""The rewriting of a decoder's attention to its source, on a graph of one layer that is written down here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

import onnx_ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from runtimes.pytorch.onnx_graph import ExportError
from runtimes.pytorch.onnx_source import CACHED, compute_source_once

HEADS, SIZE, WIDTH = 2, 4, 8
KEY, VALUE = "past_key_values.0.encoder.key", "past_key_values.0.encoder.value"
Arrays = Mapping[str, npt.NDArray[np.generic]]


def traced(*more: onnx.NodeProto, chooses: bool = True) -> onnx.ModelProto:
    """Attention as a trace has it: keys and values are computed in every step, and then chosen."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(WIDTH, WIDTH)).astype(np.float32) for name in ("wk", "wv")}
    numbers = {"heads": [HEADS], "size": [SIZE], "bias": random.normal(size=WIDTH).astype(np.float32)}
    nodes = [
        helper.make_node("Shape", [KEY], ["rows"], start=0, end=1),
        helper.make_node("Shape", [VALUE], ["tokens"], start=2, end=3),
        helper.make_node("Concat", ["rows", "tokens", "heads", "size"], ["shape"], axis=0),
    ]
    for kind, kept in (("k", KEY), ("v", VALUE)):
        nodes += [
            helper.make_node("MatMul", ["encoder_hidden_states", f"w{kind}"], [f"{kind}_flat"]),
            helper.make_node("Add", [f"{kind}_flat", "bias"], [f"{kind}_biased"]),
            helper.make_node("Reshape", [f"{kind}_biased", "shape"], [f"{kind}_heads"]),
            helper.make_node("Transpose", [f"{kind}_heads"], [f"present_{kind}"], perm=[0, 2, 1, 3]),
            helper.make_node("Where", [CACHED, kept if chooses else f"present_{kind}", f"present_{kind}"], [kind]),
        ]
    nodes += [
        helper.make_node("Transpose", ["k"], ["k_turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["query", "k_turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["attended"]),
        *more,
        helper.make_node("Neg", ["attended"], ["logits"]),
    ]
    floats = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("query", floats, ["batch_size", HEADS, "sequence", SIZE]),
        helper.make_tensor_value_info("encoder_hidden_states", floats, ["batch_size", "source", WIDTH]),
        helper.make_tensor_value_info(KEY, floats, ["batch_size", HEADS, "source", SIZE]),
        helper.make_tensor_value_info(VALUE, floats, ["batch_size", HEADS, "source", SIZE]),
        helper.make_tensor_value_info(CACHED, TensorProto.BOOL, [1]),
    ]
    outputs = [helper.make_tensor_value_info("logits", floats, [None] * 4)]
    outputs += [helper.make_tensor_value_info(f"present_{kind}", floats, [None] * 4) for kind in ("k", "v")]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights | numbers).items()]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = onnx_ir.from_proto(model)
    compute_source_once(graph)
    found = onnx_ir.to_proto(graph)
    onnx.checker.check_model(found, full_check=True)
    return found


def given(num_rows: int, num_source: int, *, cached: bool) -> dict[str, npt.NDArray[np.generic]]:
    random = np.random.default_rng(1)
    kept = (num_rows, HEADS, num_source, SIZE)
    return {
        "query": random.normal(size=(num_rows, HEADS, 3, SIZE)).astype(np.float32),
        "encoder_hidden_states": random.normal(size=(num_rows, num_source, WIDTH)).astype(np.float32),
        KEY: random.normal(size=kept).astype(np.float32),
        VALUE: random.normal(size=kept).astype(np.float32),
        CACHED: np.array([cached]),
    }


def run(model: onnx.ModelProto, inputs: Arrays) -> list[npt.NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(["logits", "present_k", "present_v"], dict(inputs))]


@pytest.mark.parametrize(("num_rows", "num_source"), [(1, 1), (2, 5), (3, 40)])
def test_the_first_step_needs_nothing_that_is_kept_and_gives_it(num_rows: int, num_source: int) -> None:
    model = traced()
    inputs = given(num_rows, num_source, cached=False)
    empty = {name: inputs[name][:, :, :0] for name in (KEY, VALUE)}
    for found, expected in zip(run(rewritten(model), {**inputs, **empty}), run(model, inputs), strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-6


def test_a_later_step_reads_what_is_kept_and_computes_nothing_of_the_source() -> None:
    model, inputs = traced(), given(2, 5, cached=True)
    logits, *present = run(rewritten(model), inputs)
    assert np.array_equal(logits, run(model, inputs)[0])
    assert [found.shape for found in present] == [(2, HEADS, 0, SIZE)] * 2


def test_products_with_weights_stay_in_the_main_graph_and_branches_have_no_weights() -> None:
    graph = rewritten(traced()).graph
    assert {node.input[1] for node in graph.node if node.op_type == "MatMul"} == {"wk", "wv"}
    [branching] = [node for node in graph.node if node.op_type == "If"]
    assert [attribute.g.initializer for attribute in branching.attribute] == [[], []]


def test_keys_that_are_read_by_more_than_attention_are_refused() -> None:
    with pytest.raises(ExportError, match="read in several places"):
        rewritten(traced(helper.make_node("Shape", ["k_turned"], ["other"])))


def test_a_decoder_that_does_not_choose_is_refused() -> None:
    with pytest.raises(ExportError, match=r"does not read past_key_values\.0\.encoder\.key once"):
        rewritten(traced(chooses=False))
