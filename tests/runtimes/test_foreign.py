"""Graphs that anybody wrote: their inputs and outputs by name, their sizes, their bits, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes.errors import RunError
from runtimes.export.bits import rounding_of
from runtimes.export.foreign import ForeignGraph, ForeignPair, open_foreign
from runtimes.export.places import find_graphs
from runtimes.tasks.interface import Head
from runtimes.tasks.language import HEAD as DECODER

onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
from onnx import TensorProto, helper  # noqa: E402  (where it is installed)

LOGITS = Head(auto_class="", peft_task="", config={}, num_outputs=1)
READS = ("input_ids", "attention_mask")
INT, FLOAT, HALF = TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT16
BATCH = {
    "input_ids": np.array([[5, 6, 7], [8, 0, 0]]),
    "attention_mask": np.array([[1, 1, 1], [1, 0, 0]]),
}


def value(name: str, kind: int, shape: Sequence[str | int]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def save(path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], weights: Any = ()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph([*nodes], "graph", [*inputs], [*outputs], [*weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def sum_of(name: str, path: Path, shape: Sequence[str | int] = ("batch", "sequence"), kind: int = INT) -> Path:
    """A graph that adds up an input of each row."""
    nodes = [
        helper.make_node("Cast", [name], ["wide"], to=FLOAT),
        helper.make_node("ReduceSum", ["wide", "axis"], ["logits"], keepdims=1),
    ]
    axis = helper.make_tensor("axis", INT, [1], [1])
    return save(path, nodes, [value(name, kind, shape)], [value("logits", FLOAT, [shape[0], 1])], [axis])


def answers(file: Path, head: Head = LOGITS) -> Any:
    return open_foreign([file], head, READS, pad_id=0).outputs(BATCH)


def test_inputs_are_given_in_the_type_that_the_graph_wants(tmp_path: Path) -> None:
    found = answers(sum_of("input_ids", tmp_path / "model.onnx", kind=TensorProto.INT32))
    assert found.tolist() == [[18], [8]]
    assert found.dtype == np.float32


def test_positions_of_a_decoder_count_along_the_mask_and_of_an_encoder_along_the_row(tmp_path: Path) -> None:
    graph = sum_of("position_ids", tmp_path / "model.onnx")
    assert answers(graph).tolist() == [[3], [3]]
    assert answers(graph, DECODER).tolist() == [[3], [0]]


def test_an_empty_cache_and_its_switch_are_made(tmp_path: Path) -> None:
    past = value("past_key_values.0.key", FLOAT, ["batch", 2, "past", 4])
    inputs = [value("input_ids", INT, ["batch", "sequence"]), past, value("use_cache_branch", TensorProto.BOOL, [1])]
    nodes = [
        helper.make_node("Shape", ["past_key_values.0.key"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["logits"], to=FLOAT),
    ]
    graph = save(tmp_path / "decoder_model_merged.onnx", nodes, inputs, [value("logits", FLOAT, [4])])
    assert answers(graph, DECODER).tolist() == [2, 2, 0, 4]


def test_a_cache_of_other_axes_is_one_error(tmp_path: Path) -> None:
    past = value("past_key_values.0.key", FLOAT, ["batch", "past", 4])
    nodes = [helper.make_node("Identity", ["past_key_values.0.key"], ["logits"])]
    graph = save(tmp_path / "model.onnx", nodes, [past], [value("logits", FLOAT, ["batch", "past", 4])])
    with pytest.raises(RunError, match=r"past_key_values\.0\.key has 3 axes, and not 4: rows, heads") as raised:
        answers(graph, DECODER)
    assert raised.value.code == "E610"


def test_a_graph_of_a_frozen_size_is_filled_up_to_it(tmp_path: Path) -> None:
    graph = open_foreign([sum_of("input_ids", tmp_path / "model.onnx", (3, 5))], LOGITS, READS, pad_id=1)
    assert isinstance(graph, ForeignGraph)
    assert (graph.rows, graph.length) == (3, 5)
    assert graph.outputs(BATCH).tolist() == [[18 + 2], [8 + 2]]


def test_an_encoder_and_a_decoder_are_run_one_after_the_other(tmp_path: Path) -> None:
    states = [
        helper.make_node("Cast", ["input_ids"], ["wide"], to=FLOAT),
        helper.make_node("Unsqueeze", ["wide", "last"], ["last_hidden_state"]),
    ]
    last = helper.make_tensor("last", INT, [1], [2])
    ids = value("input_ids", INT, ["batch", "sequence"])
    hidden = value("encoder_hidden_states", FLOAT, ["batch", "source", 1])
    encoder = save(
        tmp_path / "encoder_model.onnx",
        states,
        [ids],
        [value("last_hidden_state", FLOAT, ["batch", "sequence", 1])],
        [last],
    )
    nodes = [
        helper.make_node("ReduceSum", ["encoder_hidden_states", "axes"], ["total"], keepdims=1),
        helper.make_node("Cast", ["input_ids"], ["wide"], to=FLOAT),
        helper.make_node("Unsqueeze", ["wide", "last"], ["tokens"]),
        helper.make_node("Add", ["tokens", "total"], ["logits"]),
    ]
    axes = helper.make_tensor("axes", INT, [1], [1])
    logits = value("logits", FLOAT, ["batch", "sequence", 1])
    save(tmp_path / "decoder_model.onnx", nodes, [ids, hidden], [logits], [axes, last])
    found = find_graphs(tmp_path, encodes=True)
    assert found.files == (encoder, tmp_path / "decoder_model.onnx")
    pair = open_foreign(found.files, DECODER, (*READS, "decoder_input_ids"), pad_id=0)
    assert isinstance(pair, ForeignPair)
    given = {**BATCH, "decoder_input_ids": np.array([[1, 2], [3, 4]])}
    assert pair.outputs(given)[..., 0].tolist() == [[19, 20], [11, 12]]


def test_an_output_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    graph = sum_of("input_ids", tmp_path / "model.onnx")
    model = onnx.load(graph)
    model.graph.output.append(value("wide", FLOAT, ["batch", "sequence"]))
    model.graph.output[0].name = model.graph.node[1].output[0] = "scores"
    onnx.save(model, graph)
    with pytest.raises(RunError, match="no output logits; it gives scores, wide") as raised:
        open_foreign([graph], LOGITS, READS, pad_id=0)
    assert raised.value.code == "E610"
    assert open_foreign([graph], LOGITS, READS, pad_id=0, output="scores").outputs(BATCH).tolist() == [[18], [8]]
    with pytest.raises(RunError, match="has the outputs logits and wide, and one name was given") as raised:
        open_foreign([graph], replace(LOGITS, results=("logits", "wide")), READS, pad_id=0, output="scores")
    assert raised.value.code == "E610"


# --- bits


def test_a_graph_in_float32_is_not_rounded(tmp_path: Path) -> None:
    assert rounding_of([sum_of("input_ids", tmp_path / "model.onnx")]) is None


@pytest.mark.parametrize(("operator", "bits"), [("MatMulNBits", 4), ("MatMulInteger", 8), ("DequantizeLinear", 8)])
def test_operators_show_how_weights_are_rounded(tmp_path: Path, operator: str, bits: int) -> None:
    node = helper.make_node(operator, ["input_ids"], ["logits"])
    path = save(tmp_path / "m.onnx", [node], [value("input_ids", INT, ["b"])], [value("logits", FLOAT, ["b"])])
    found = rounding_of([path])
    assert found is not None
    assert (found.bits, found.shown_by) == (bits, f"1 {operator}")


def test_operators_inside_of_a_branch_count(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "then", [], [value("c", INT, [1])]
    )
    node = helper.make_node("If", ["use_cache_branch"], ["logits"], then_branch=inner, else_branch=inner)
    path = save(
        tmp_path / "m.onnx", [node], [value("use_cache_branch", TensorProto.BOOL, [1])], [value("logits", INT, [1])]
    )
    found = rounding_of([path])
    assert found is not None
    assert found.bits == 8


def test_weights_of_16_bits_count_as_rounded(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", HALF, [2], [1.0, 2.0])
    node = helper.make_node("Add", ["x", "w"], ["logits"])
    path = save(tmp_path / "m.onnx", [node], [value("x", HALF, [2])], [value("logits", HALF, [2])], [weight])
    found = rounding_of([path])
    assert found is not None
    assert found.bits == 16


def test_a_file_that_is_no_graph_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(RunError, match="not an ONNX graph"):
        rounding_of([tmp_path / "model.onnx"])


# --- places


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.onnx"], "model.onnx"),
        (["onnx/model_quantized.onnx"], "onnx/model_quantized.onnx"),
        (
            ["decoder_model.onnx", "decoder_with_past_model.onnx", "decoder_model_merged.onnx"],
            "decoder_model_merged.onnx",
        ),
        (["decoder_model.onnx", "decoder_with_past_model.onnx"], "decoder_model.onnx"),
    ],
)
def test_the_graph_of_a_folder_is_found_by_its_name(tmp_path: Path, names: list[str], chosen: str) -> None:
    touch(tmp_path, *names)
    assert find_graphs(tmp_path, encodes=False).files == (tmp_path / chosen,)


def test_a_file_in_onnx_belongs_to_the_folder_above(tmp_path: Path) -> None:
    touch(tmp_path, "onnx/model.onnx")
    assert find_graphs(tmp_path / "onnx" / "model.onnx", encodes=False).folder == tmp_path


def test_a_decoder_has_the_encoder_of_its_own_precision(tmp_path: Path) -> None:
    touch(tmp_path, "encoder_model.onnx", "encoder_model_int8.onnx", "decoder_model_merged_int8.onnx")
    found = find_graphs(tmp_path / "decoder_model_merged_int8.onnx", encodes=True)
    assert [file.name for file in found.files] == ["encoder_model_int8.onnx", "decoder_model_merged_int8.onnx"]


@pytest.mark.parametrize("names", [[], ["a.onnx", "b.onnx"], ["decoder_model.onnx"]])
def test_what_can_not_be_told_is_one_error(tmp_path: Path, names: list[str]) -> None:
    touch(tmp_path, *names)
    with pytest.raises(RunError) as raised:
        find_graphs(tmp_path, encodes=True)
    assert raised.value.code == "E611"
