"""Gradient checkpointing on both engines: layers are computed again, and nothing else is different."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)

from compiler.methods import Freeze, Full, Head, LoRA, Method, QLoRA
from compiler.placement import Runtime
from compiler.plan import Train
from compiler.recipe import AdamW
from runtimes.backends import backend
from runtimes.errors import RunError
from runtimes.protocol import Engine
from runtimes.pytorch.engine import TorchEngine
from runtimes.pytorch.quiet import quiet
from runtimes.rows.features import Features
from tests.conformance.engines import do_step, micro_batches
from tests.runtimes.tiny import WORDS, batch_of, features, placed, train_step

SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
LORA = LoRA(rank=4, alpha=8.0, dropout=0.2, target_modules=("query", "value", "dense", "q_proj", "v_proj"))
FIRST = LoRA(rank=4, alpha=8.0, target_modules=("layer.0.attention.self.query", "layers.0.self_attn.q_proj"))
QLORA = QLoRA(rank=4, alpha=8.0, dropout=0.2, group_size=32, target_modules=LORA.target_modules)


def build(name: str) -> PreTrainedModel:
    """A tiny encoder with dropout in its layers."""
    match name:
        case "bert":
            return BertModel(BertConfig(**SIZES))
        case "llama":
            return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2, attention_dropout=0.1))
        case "gpt2":
            return GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=3, n_head=4, pad_token_id=0))
        case _:
            return AlbertModel(AlbertConfig(**SIZES, embedding_size=16, hidden_dropout_prob=0.1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of folders of models, whose weights are large enough for their answers to depend on the inputs."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("bert", "llama", "gpt2", "albert"):
        torch.manual_seed(0)
        model = build(name)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.15)
        with quiet():
            model.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


def step_of(method: Method, precision: str = "fp32") -> Train:
    changes: dict[str, Any] = {"method": method, "precision": precision, "learning_rate": 1e-2}
    return train_step(optimizer=AdamW(), weight_decay=0.01, max_grad_norm=0.5, **changes)


def load(runtime: Runtime, step: Train, model: Path, folder: Path, *, again: bool) -> Engine:
    if runtime == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    placement = placed(runtime, gradient_checkpointing=again)
    return backend(runtime).load_engine(step, model, folder / "init.safetensors", placement)


def three_steps(engine: Engine, step: Train, rows: Features, folder: Path) -> dict[str, np.ndarray]:
    """Losses, norms, all weights and moments, and an evaluation after three steps of two micro-batches."""
    found = np.array([do_step(engine, rows, step, number, 1e-2) for number in range(3)])
    engine.save_state(folder)
    [batch, _] = micro_batches(rows, step, 5)
    return {"steps": found, "outputs": engine.evaluate(batch).outputs, **load_file(folder / "state.safetensors")}


TORCH_CASES = [
    *((model, method, "fp32") for model in ("bert", "llama") for method in (Full(), LORA)),
    *(("bert", method, "fp32") for method in (Head(), Freeze(layers=1), FIRST)),
    ("bert", Full(), "bf16"),
    ("llama", FIRST, "fp32"),
]
MLX_CASES = [
    ("bert", LORA, "fp32"),
    pytest.param("bert", QLORA, "fp32", marks=pytest.mark.long),
    pytest.param("bert", Full(), "bf16", marks=pytest.mark.slow),
    pytest.param("llama", Full(), "fp32", marks=pytest.mark.long),
]


def named(value: object) -> str:
    return getattr(value, "type", str(value))


@pytest.mark.parametrize(("model", "method", "precision"), TORCH_CASES, ids=named)
def test_pytorch_has_the_same_bits(
    model: str, method: Method, precision: str, models: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(method, precision)
    whole, again = (load("pytorch", step, models / model, tmp_path, again=again) for again in (False, True))
    expected = three_steps(whole, step, rows, tmp_path)
    found = three_steps(again, step, rows, tmp_path)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def test_a_model_that_hands_its_cache_on_by_position_has_the_same_numbers(
    models: Path, rows: Features, tmp_path: Path
) -> None:
    """Not the same bits: keys and values that were in a cache lie otherwise in memory, and are summed otherwise."""
    step = step_of(Full())
    whole, again = (load("pytorch", step, models / "gpt2", tmp_path, again=again) for again in (False, True))
    expected = three_steps(whole, step, rows, tmp_path)
    found = three_steps(again, step, rows, tmp_path)
    for name in ("steps", "outputs"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("model", "method", "precision"), MLX_CASES, ids=named)
def test_mlx_has_the_same_numbers(
    model: str, method: Method, precision: str, models: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(method, precision)
    whole, again = (load("mlx", step, models / model, tmp_path, again=again) for again in (False, True))
    expected = three_steps(whole, step, rows, tmp_path)
    found = three_steps(again, step, rows, tmp_path)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", [Full(), LORA, FIRST], ids=["full", "lora", "lora-first"])
def test_pytorch_keeps_less_for_the_gradients(method: Method, models: Path, rows: Features, tmp_path: Path) -> None:
    """Also where a layer is frozen as a whole and gradients flow through it: two thirds of the layers of the last."""
    step = step_of(method)
    kept = []
    for again in (False, True):
        engine = load("pytorch", step, models / "bert", tmp_path, again=again)
        with kept_bytes() as sizes:
            do_step(engine, rows, step, 0, 1e-2)
        kept.append(sum(sizes.values()))
    assert kept[1] < kept[0] / 3


@contextmanager
def kept_bytes() -> Iterator[dict[int, int]]:
    """The bytes that autograd keeps, by where they lie: parameters too, which it only points to."""
    sizes: dict[int, int] = {}
    held = []  # so that no place is taken twice

    def pack(value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, torch.nn.Parameter):
            held.append(value)
            sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield sizes


@pytest.mark.parametrize(("method", "expected"), [(Full(), 2), (FIRST, 2), (Head(), 1)], ids=named)
def test_pytorch_computes_a_layer_twice_where_gradients_flow(
    method: Method, expected: int, models: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(method)
    engine = load("pytorch", step, models / "bert", tmp_path, again=True)
    assert isinstance(engine, TorchEngine)
    calls = []
    engine.inner.get_submodule("bert.encoder.layer.2.intermediate").register_forward_hook(lambda *_: calls.append(1))
    do_step(engine, rows, step, 0, 1e-2)
    assert len(calls) == expected * len(micro_batches(rows, step, 0))
    calls.clear()
    engine.evaluate(micro_batches(rows, step, 0)[0])
    assert len(calls) == 1


def test_mlx_has_a_lower_peak_in_a_deep_model_with_long_rows(tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core", reason="needs the mlx extra")
    sizes = {**SIZES, "num_hidden_layers": 6, "hidden_size": 64, "max_position_embeddings": 160}
    with quiet():
        BertModel(BertConfig(**sizes)).save_pretrained(tmp_path / "deep")
    ids = np.random.default_rng(0).integers(5, 60, (4, 160))
    batch = batch_of({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    peaks, losses = [], []
    for again in (False, True):
        engine = load("mlx", step_of(Full()), tmp_path / "deep", tmp_path, again=again)
        before = mx.get_active_memory()
        done = engine.train_step([batch], denominators={"loss": 4.0}, learning_rates=(1e-2,), seed=0)
        losses.append(done.result().losses["loss"])
        peaks.append(engine.peak_memory() - before)
        del engine
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert peaks[1] < peaks[0] / 2


def test_a_model_whose_layers_transformers_can_t_compute_again_is_e410(models: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        load("pytorch", step_of(Full()), models / "albert", tmp_path, again=True)
    assert caught.value.code == "E410"
    assert "AlbertForSequenceClassification" in caught.value.message
    assert "/training/gradient_checkpointing" in caught.value.hint


def test_a_model_without_numbered_layers_is_e410_on_mlx() -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    from runtimes.mlx.backend import require_layers
    from runtimes.mlx.graph import Graph, Input, Node, Ref

    node = Node(name="%one", op="aten.exp.default", args=(Ref("x"),), module="body.dense", dtype="float32")
    inputs = {"x": Input(dtype="float32", axes=("batch", 4))}
    graph = Graph(
        parameters={}, buffers={}, constants={}, inputs=inputs, nodes=(node,), outputs={"out": Ref("%one")}, mutated={}
    )
    with pytest.raises(RunError) as caught:
        require_layers(graph)
    assert caught.value.code == "E410"
