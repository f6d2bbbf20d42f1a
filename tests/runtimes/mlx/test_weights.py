from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from compiler.weights import read_header
from runtimes.mlx.graph import Graph
from runtimes.mlx.trace import names_in_model
from runtimes.mlx.weights import Weights, load_weights, weight_files
from runtimes.pytorch.models import computed_parameters
from runtimes.pytorch.quiet import quiet
from tests.runtimes.mlx.architectures import ARCHITECTURES
from tests.runtimes.mlx.running import buffers_of, graph_of, parameters_of


def saved(name: str, folder: Path, **settings: object) -> PreTrainedModel:
    model = ARCHITECTURES[name].build().model
    assert isinstance(model, PreTrainedModel)
    with quiet():
        model.save_pretrained(folder, **settings)  # type: ignore[arg-type]
    return model


def loaded(graph: Graph, model: nn.Module, folder: Path, **dtypes: Any) -> Weights:
    assert isinstance(model, PreTrainedModel)
    files = weight_files(folder)
    return load_weights(
        graph, files, names_in_model(model, [name for file in files for name in read_header(file)]), **dtypes
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_saved_model_comes_back_whole_under_torchs_names(name: str, tmp_path: Path) -> None:
    model, graph = saved(name, tmp_path), graph_of(name)
    found = loaded(graph, model, tmp_path)
    computed = computed_parameters(model)
    assert sorted(found.missing) == sorted(computed)
    assert bool(computed) == (name == "marian")
    for values, expected in (
        (found.parameters, parameters_of(graph, model)),
        (found.buffers, buffers_of(graph, model)),
    ):
        stored = {key: value for key, value in expected.items() if key not in computed}
        assert values.keys() == stored.keys()
        for key, value in stored.items():
            assert values[key].dtype == value.dtype
            assert mx.array_equal(values[key], value)


def test_shards_are_read_together(tmp_path: Path) -> None:
    model, graph = saved("bert", tmp_path, max_shard_size="20KB"), graph_of("bert")
    assert len(weight_files(tmp_path)) > 1
    found = loaded(graph, model, tmp_path)
    assert found.missing == ()
    assert all(mx.array_equal(found.parameters[name], value) for name, value in parameters_of(graph, model).items())


def test_an_encoders_files_fill_a_model_with_a_head(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build().model
    inner = model.get_submodule("bert")
    assert isinstance(inner, PreTrainedModel)
    with quiet():
        inner.save_pretrained(tmp_path)
    found = loaded(graph_of("bert"), model, tmp_path)
    assert set(found.missing) == {"classifier.weight", "classifier.bias"}
    name = "bert.encoder.layer.1.output.dense.weight"
    np.testing.assert_array_equal(np.array(found.parameters[name]), model.get_parameter(name).detach().numpy())


def test_a_head_of_another_size_is_missing_and_old_names_of_norms_are_known(tmp_path: Path) -> None:
    model = saved("bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    save_file({**renamed, "classifier.weight": torch.zeros(9, 32)}, tmp_path / "model.safetensors")
    assert loaded(graph_of("bert"), model, tmp_path).missing == ("classifier.weight",)


def test_trained_and_frozen_parameters_have_dtypes_of_their_own(tmp_path: Path) -> None:
    model = saved("bert", tmp_path)
    graph = graph_of("bert")
    frozen = {name: replace(own, requires_grad=name.startswith("classifier")) for name, own in graph.parameters.items()}
    found = loaded(replace(graph, parameters=frozen), model, tmp_path, frozen_dtype="bfloat16")
    assert {name for name, value in found.parameters.items() if value.dtype == mx.float32} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert {value.dtype for value in found.parameters.values()} == {mx.float32, mx.bfloat16}


def test_a_buffer_that_no_file_has_keeps_its_first_value(tmp_path: Path) -> None:
    model = saved("resnet", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({key: v for key, v in tensors.items() if "running_var" not in key}, tmp_path / "model.safetensors")
    found = loaded(graph_of("resnet"), model, tmp_path)
    assert found.missing == ()
    variances = [value for key, value in found.buffers.items() if "running_var" in key]
    assert variances
    assert all(mx.array_equal(value, mx.ones_like(value)) for value in variances)


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        weight_files(tmp_path)
