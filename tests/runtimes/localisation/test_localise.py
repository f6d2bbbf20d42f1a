"""Faults in the graphs of tiny models: each is named by its layer, its operator, and what is wrong about it."""

# Axes: B = rows, T = tokens

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("onnxscript", reason="needs the onnx extra")

import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from compiler.recipe import Onnx
from runtimes.errors import RunError
from runtimes.export.facts import GRAPH, graph_names
from runtimes.export.rounding import round_graph
from runtimes.localisation.finding import Localised
from runtimes.pytorch import onnx_decoder, onnx_sequence
from runtimes.pytorch.decoding import HEAD as CAUSAL
from runtimes.pytorch.localise import localise, localise_graphs
from runtimes.pytorch.localise_rounded import localise_rounded
from runtimes.pytorch.onnx import export
from runtimes.pytorch.onnx_format import traceable
from runtimes.pytorch.sequence_decoding import HEAD as SEQUENCE
from runtimes.saved import SavedModel
from runtimes.tasks import module_of
from runtimes.tasks.interface import Head
from tests.runtimes.decoders import save_decoder
from tests.runtimes.localisation import damage as faults
from tests.runtimes.localisation.damage import Damage, damaged
from tests.runtimes.pairs import save_pair
from tests.runtimes.tiny import TASK, batch_of

pytestmark = [pytest.mark.slow, pytest.mark.long]

CLASSIFIER = module_of(TASK).head(TASK)
IMAGES = Head(auto_class="AutoModelForImageClassification", peft_task="", config={}, num_outputs=4)
DECODER = replace(CAUSAL, cached=True)
PAIR = replace(SEQUENCE, cached=True, encodes=True, arguments={"use_cache": False})
SIDE = 16
Inputs = Mapping[str, np.ndarray]
Find = Callable[..., Localised]


def padded(lengths: list[int], num_tokens: int, *, segments: bool = True) -> dict[str, np.ndarray]:
    """Random tokens [B, T], padded on the right."""
    places = np.arange(max(lengths))[None, :]
    mask = (places < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(sum(lengths)).integers(4, num_tokens, mask.shape) * mask
    found = {"input_ids": ids, "attention_mask": mask}
    return {**found, "token_type_ids": (places >= 4).astype(np.int64) * mask} if segments else found


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig.from_dict(
        {**sizes, "vocab_size": 99, "max_position_embeddings": 64, "num_labels": 3, "initializer_range": 0.15}
    )
    model = BertForSequenceClassification(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they begin as zeros, and one would stand for all in the file
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    export(traceable(SavedModel(folder), CLASSIFIER), folder / GRAPH)
    return folder


@pytest.fixture
def of_bert(bert: Path, tmp_path: Path) -> Find:
    def find(damage: Damage, inputs: Inputs | None = None) -> Localised:
        file = damaged(bert / GRAPH, damage, tmp_path / "bad.onnx")
        return localise_graphs(SavedModel(bert), CLASSIFIER, [file], batch_of(inputs or padded([12], 99)))

    return find


@pytest.mark.parametrize("lengths", [[12], [1], [17, 3, 9]])
def test_in_a_healthy_graph_no_layer_leaves_the_noise(of_bert: Find, lengths: list[int]) -> None:
    found = of_bert(faults.nothing, padded(lengths, 99))
    assert not found.found and "no layer leaves the noise" in found.says()
    assert found.rows == tuple(range(len(lengths)))
    layers = {layer.layer: layer for layer in found.layers}
    assert {"bert.embeddings", "bert.encoder.layer.2.attention.self.value", "classifier"} <= set(layers)
    assert all(layer.right and layer.max_abs is not None for layer in found.layers)


def test_the_graph_is_found_in_its_folder(bert: Path) -> None:
    assert not localise(TASK, SavedModel(bert), bert, batch_of(padded([8], 99))).found


LAYER, NORM = "bert.encoder.layer", "LayerNormalization"
PRODUCTS = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
OF_LAYER = (*PRODUCTS, "intermediate.dense", "output.dense")
NAMES = [f"{LAYER}.{at}.{name}" for at in range(3) for name in OF_LAYER] + ["bert.pooler.dense", "classifier"]


@pytest.mark.parametrize(("number", "name"), list(enumerate(NAMES)), ids=NAMES)
def test_a_scaled_weight_is_named_with_its_factor(of_bert: Find, number: int, name: str) -> None:
    found = of_bert(faults.scaled(number))
    assert found.layer == name
    assert found.operator is not None and found.operator.op_type in ("MatMul", "Gemm")
    [constant] = [one for one in found.operator.constants if len(one.shape) == 2]
    assert found.note == f"{constant.name} is 1.01 times the source's {name}.weight"
    assert found.max_abs is not None and found.max_abs > 100 * found.allowed
    assert not next(layer for layer in found.layers if layer.layer == name).right


def test_of_swapped_weights_the_first_is_named_and_whose_it_is(of_bert: Find) -> None:
    found = of_bert(faults.swapped(2, 8))
    assert found.layer == f"{LAYER}.0.attention.self.value"
    own, other = (f"{LAYER}.{at}.attention.self.value.weight" for at in (0, 1))
    assert f"equals the source's {other}, and should be {own}" in found.note


@pytest.mark.parametrize(
    ("damage", "layer", "op_type", "note"),
    [
        (faults.weight(9, np.transpose), f"{LAYER}.1.attention.output.dense", "MatMul", "dense.weight, transposed"),
        (
            faults.weight(9, lambda values: values.astype(np.float16).astype(np.float32)),
            f"{LAYER}.1.attention.output.dense",
            "MatMul",
            "dense.weight rounded, off by up to",
        ),
        (faults.weight(4, np.zeros_like), f"{LAYER}.0.intermediate.dense", "MatMul", "is zero, and should be"),
        (
            faults.attribute("LayerNormalization", 2, epsilon=1e-3),
            f"{LAYER}.0.output.LayerNorm",
            "LayerNormalization",
            "",
        ),
        (faults.attribute("Softmax", 1, axis=2), f"{LAYER}.1.attention.self", "Softmax", "computes otherwise"),
        (faults.attribute("Gelu", 2, approximate="tanh"), f"{LAYER}.2.intermediate.intermediate_act_fn", "Gelu", ""),
        (
            faults.positions_restarted,
            "bert.embeddings.position_embeddings",
            "Gather",
            "it reads other rows of its table: 0, 1, 2, 3, ... at place 4 on, where the source reads 4, 5, 6, 7",
        ),
        (faults.positions_cut, "bert.embeddings.position_embeddings", "Gather", "at place 6 on"),
        (faults.labels_reversed, "classifier", "Gather", ""),
    ],
    ids=["transposed", "rounded", "zero", "epsilon", "softmax", "gelu", "restarted", "cut", "labels"],
)
def test_a_fault_is_named(of_bert: Find, damage: Damage, layer: str, op_type: str, note: str) -> None:
    found = of_bert(damage)
    assert found.layer == layer
    assert found.operator is not None and found.operator.op_type == op_type
    assert note in found.note


def test_a_bias_is_told_from_the_weight_before_it(of_bert: Find) -> None:
    name = f"{LAYER}.1.intermediate.dense.bias"
    found = of_bert(lambda graph: faults.change(graph, name, lambda values: values + np.float32(0.01)))
    assert (found.layer, found.operator.op_type if found.operator else "") == (name.removesuffix(".bias"), "Add")
    assert found.note.startswith(f"{name} differs from {name} in 64 of 64 values") or "rounded" in found.note


def test_a_mask_that_is_ignored_is_the_first_attentions(of_bert: Find) -> None:
    assert not of_bert(faults.unmasked).found  # a row without padding shows nothing
    found = of_bert(faults.unmasked, padded([12, 4, 7], 99))
    assert found.layer == f"{LAYER}.0.attention.self"
    assert "attention_mask" in found.note
    assert "other places are masked" in found.says()


def test_what_is_found_is_read_back(of_bert: Find) -> None:
    from compiler.typed import read

    found = of_bert(faults.scaled(3))
    assert read(Localised, found.to_json()) == found


def test_an_input_that_no_row_has_is_named(of_bert: Find) -> None:
    def damage(graph: Any) -> None:
        graph.input[1].name = "speaker_ids"
        for node in graph.node:
            node.input[:] = ["speaker_ids" if name == "attention_mask" else name for name in node.input]

    with pytest.raises(RunError, match="speaker_ids") as caught:
        of_bert(damage)
    assert caught.value.code == "E608"


# --- decoders


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_decoder("llama", tmp_path_factory.mktemp("llama"))
    onnx_decoder.export(traceable(SavedModel(folder), CAUSAL), folder / GRAPH)
    return folder


@pytest.mark.parametrize(
    ("damage", "layer", "op_type", "note"),
    [
        (faults.scaled(0), "model.layers.0.self_attn.q_proj", "MatMul", "is 1.01 times"),
        (faults.scaled(12), "model.layers.1.mlp.up_proj", "MatMul", "is 1.01 times"),
        (faults.attribute("Softmax", 1, axis=2), "model.layers.1.self_attn", "Softmax", "computes otherwise"),
        (faults.sine_for_cosine, "model.rotary_emb", "Sin", ""),
        (faults.norm_constant(2, 1e-2), "model.layers.1.input_layernorm", "Add", "computes otherwise"),
        (
            faults.cache_turned("past_key_values.1.value"),
            "model.layers.1.self_attn",
            "Concat",
            "one token after its cache is not; present.1.value differs at position 0, 1, 2",
        ),
    ],
    ids=["query", "up", "softmax", "rotary", "epsilon", "cache"],
)
def test_a_fault_of_a_decoder_is_named(
    llama: Path, tmp_path: Path, damage: Damage, layer: str, op_type: str, note: str
) -> None:
    file = damaged(llama / GRAPH, damage, tmp_path / "bad.onnx")
    found = localise_graphs(SavedModel(llama), DECODER, [file], batch_of(padded([9], 40, segments=False)))
    assert found.layer == layer
    assert found.operator is not None and found.operator.op_type == op_type
    assert note in found.note


@pytest.mark.parametrize("lengths", [[9], [9, 4, 6]])
def test_in_a_healthy_decoder_no_layer_leaves_the_noise(llama: Path, lengths: list[int]) -> None:
    batch = batch_of(padded(lengths, 40, segments=False))
    found = localise_graphs(SavedModel(llama), DECODER, [llama / GRAPH], batch)
    assert not found.found and found.rows == tuple(range(len(lengths)))


# --- encoder-decoders


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_pair("t5", tmp_path_factory.mktemp("t5") / "model")
    onnx_sequence.export(traceable(SavedModel(folder), SEQUENCE), folder)
    return folder


@pytest.mark.parametrize(
    ("half", "number", "stack", "name"),
    [(0, 0, "encoder", "layer.0.SelfAttention.q"), (1, 0, "decoder", "layer.0.SelfAttention.q"), (0, None, "", "")],
)
def test_a_fault_of_an_encoder_decoder_is_named_by_graph(
    t5: Path, tmp_path: Path, half: int, number: int | None, stack: str, name: str
) -> None:
    files = [t5 / each for each in graph_names(encodes=True)]
    damage = faults.nothing if number is None else faults.scaled(number)
    graphs = [*files]
    graphs[half] = damaged(files[half], damage, tmp_path / files[half].name)
    written = np.random.default_rng(1).integers(4, 50, (1, 6))
    inputs = {**padded([9], 50, segments=False), "decoder_input_ids": written}
    found = localise_graphs(SavedModel(t5), PAIR, graphs, batch_of(inputs))
    if number is None:
        assert not found.found
        return
    assert found.layer == f"{stack}.block.0.{name}"
    assert found.operator is not None and found.operator.file == files[half].name
    assert f"is 1.01 times the source's {stack}.block.0.{name}.weight" in found.note


# --- images


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig.from_dict(
        {**sizes, "image_size": SIDE, "patch_size": 4, "num_labels": 4, "initializer_range": 0.2}
    )
    ViTForImageClassification(config).save_pretrained(folder)
    export(traceable(SavedModel(folder), IMAGES), folder / GRAPH, shapes={"pixel_values": (3, SIDE, SIDE)})
    return folder


@pytest.mark.parametrize(
    ("damage", "layer"),
    [
        (faults.scaled(0), "vit.embeddings.patch_embeddings.projection"),
        (faults.scaled(9), "vit.layers.1.attention.v_proj"),
        (faults.nothing, None),
    ],
)
def test_a_fault_of_a_model_that_reads_images_is_named(
    vit: Path, tmp_path: Path, damage: Damage, layer: str | None
) -> None:
    file = damaged(vit / GRAPH, damage, tmp_path / "bad.onnx")
    pixels = np.random.default_rng(0).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    found = localise_graphs(SavedModel(vit), IMAGES, [file], batch_of({"pixel_values": pixels}))
    assert found.layer == layer


# --- graphs in fewer bits


def test_a_layer_that_is_rounded_worst_is_named(bert: Path, tmp_path: Path) -> None:
    rounded = faults.weight(9, lambda values: (values * 4).round() / np.float32(4))
    file = damaged(bert / GRAPH, rounded, tmp_path / "rounded.onnx")
    found = localise_rounded(SavedModel(bert), CLASSIFIER, [bert / GRAPH], [file], batch_of(padded([12], 99)))
    assert found.rounded and found.layer == f"{LAYER}.1.attention.output.dense"
    assert found.operator is not None
    added = {layer.layer: layer.added for layer in found.layers}
    assert added[f"{LAYER}.0.output.dense"] == 0 and max(value or 0.0 for value in added.values()) > 0.1


def test_values_of_a_graph_in_int8_are_found_by_their_names(bert: Path, tmp_path: Path) -> None:
    file = tmp_path / "int8.onnx"
    round_graph(Onnx(precision="int8", opset=18), bert / GRAPH, file, weights_alone=False)
    found = localise_rounded(SavedModel(bert), CLASSIFIER, [bert / GRAPH], [file], batch_of(padded([12], 99)))
    assert found.rounded and found.layer is not None
    assert len(found.layers) > 20  # most layers' values keep their names
