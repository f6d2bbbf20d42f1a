"""What is written to a Core ML package is the model's: each fault is found without running it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("coremltools", reason="needs the coreml extra")

import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from compiler.functions import Shapes
from runtimes.errors import RunError
from runtimes.pytorch.coreml import Taken, Wrapped, script_outputs, traced, write_package
from runtimes.pytorch.coreml_package import compare_package, open_package
from runtimes.tasks import Head

SHAPES = Shapes(batch_sizes=(1, 4), lengths=(8, 16))
TEXT = (Taken("input_ids", ()), Taken("attention_mask", ()))
PIXELS = (Taken("pixel_values", (3, 16, 16)),)
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
SPANS = ("start_logits", "end_logits")
VIT = {name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}


def vit() -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig.from_dict({**VIT, "image_size": 16, "patch_size": 8, "num_labels": 3}))


def resnet() -> PreTrainedModel:
    config = ResNetConfig.from_dict(
        {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic", "num_labels": 3}
    )
    return ResNetForImageClassification(config)


def wrap(model: PreTrainedModel, taken: tuple[Taken, ...] = TEXT, results: tuple[str, ...] = ("logits",)) -> Wrapped:
    model.set_attn_implementation("eager")
    head = Head(auto_class="", peft_task="", config={}, num_outputs=2, results=results)
    return Wrapped(model, taken, head).eval()


def bert() -> Wrapped:
    torch.manual_seed(0)
    return wrap(BertForSequenceClassification(BertConfig(**SIZES)))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package") / "model.mlpackage"
    write_package(bert(), SHAPES, "fp32", out)
    return out


MODELS: dict[str, Callable[[], Wrapped]] = {
    "tags": lambda: wrap(BertForTokenClassification(BertConfig(**SIZES))),
    "spans": lambda: wrap(BertForQuestionAnswering(BertConfig(**SIZES)), results=SPANS),
    "positions from the padding": lambda: wrap(RobertaForSequenceClassification(RobertaConfig(**SIZES))),
    "patches": lambda: wrap(vit(), PIXELS),
    "convolutions": lambda: wrap(resnet(), PIXELS),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_of_a_model_is_in_its_package(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    write_package(model, SHAPES, "fp32", tmp_path / "model.mlpackage")
    interface, weights = compare_package(model, tmp_path / "model.mlpackage", "fp32")
    assert (interface.faults, weights.faults) == ((), ())
    assert weights.compared == len([*model.parameters()])


def test_the_trace_masks_padding_at_other_sizes_than_the_traced_one() -> None:
    model = bert()
    ids_BT = np.arange(1, 37).reshape(3, 12) % 50
    mask_BT = np.ones_like(ids_BT)
    mask_BT[1, 5:] = 0
    [found_BC] = script_outputs(traced(model), model, {"input_ids": ids_BT, "attention_mask": mask_BT})
    with torch.inference_mode():
        alone_C = model.model(input_ids=torch.from_numpy(ids_BT[1:2, :5])).logits[0].numpy()
    assert np.abs(found_BC[1] - alone_C).max() < 1e-5  # float32 sums in another order


def test_a_scaled_weight_is_named(package: Path) -> None:
    model = bert()
    with torch.no_grad():
        model.model.get_parameter("bert.encoder.layer.1.output.dense.weight").mul_(1.01)
    _, weights = compare_package(model, package, "fp32")
    assert weights.faults == ("bert.encoder.layer.1.output.dense.weight has other values",)
    assert not weights.passed


def test_layers_that_changed_places_are_named(package: Path) -> None:
    model = bert()
    layers = model.model.get_submodule("bert.encoder.layer")
    assert isinstance(layers, torch.nn.ModuleList)
    first, second = layers
    layers[0], layers[1] = second, first
    _, weights = compare_package(model, package, "fp32")
    assert "bert.encoder.layer.0.attention.self.query.weight has other values" in weights.faults


def test_a_head_of_other_labels_is_named_by_its_shape(package: Path) -> None:
    model = wrap(BertForSequenceClassification(BertConfig.from_dict({**SIZES, "num_labels": 3})))
    _, weights = compare_package(model, package, "fp32")
    assert "classifier.weight has the shape [2, 16], not [3, 16]" in weights.faults


def test_a_package_without_the_mask_is_named(tmp_path: Path, package: Path) -> None:
    out = tmp_path / "model.mlpackage"
    model = bert()
    write_package(wrap(model.model, TEXT[:1]), SHAPES, "fp32", out)
    interface, _ = compare_package(model, out, "fp32")
    assert interface.faults == ("inputs: attention_mask on one side alone",)


def test_a_package_of_one_length_is_named(tmp_path: Path) -> None:
    model = bert()
    write_package(model, Shapes(batch_sizes=(4,), lengths=(1,)), "fp32", tmp_path / "model.mlpackage")
    interface, _ = compare_package(model, tmp_path / "model.mlpackage", "fp32")
    assert "input_ids: another type or shape than the model's" in interface.faults


def test_half_precision_is_within_its_rounding_and_an_overflow_is_named(tmp_path: Path) -> None:
    out, model = tmp_path / "model.mlpackage", bert()
    write_package(model, SHAPES, "fp16", out)
    interface, weights = compare_package(model, out, "fp16")
    assert (interface.faults, weights.faults) == ((), ())
    _, exactly = compare_package(model, out, "fp32")
    assert len(exactly.faults) > 10
    with torch.no_grad():
        model.model.get_parameter("classifier.weight")[0, 0] = 1e6
    _, overflown = compare_package(model, out, "fp16")
    assert overflown.faults == ("classifier.weight has other values",)


def test_what_is_no_package_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no Core ML package") as raised:
        open_package(tmp_path)
    assert raised.value.code == "E507"
