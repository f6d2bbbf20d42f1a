"""Batch norms beside an adapter: frozen ones keep their means, which no file of an adapter has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file
from transformers import MobileViTConfig, MobileViTForImageClassification

from compiler.methods import Full, LoRA, Method
from compiler.placement import Runtime
from compiler.tasks import ImageClassification
from runtimes.backends import backend
from runtimes.protocol import Batch, Engine
from runtimes.pytorch.quiet import quiet
from runtimes.saved import trained_model
from tests.runtimes.tiny import LABELS, batch_of, placed, train_step

SIDE = 64  # layers of 2 x 2 at the end, as patches are: none is resized
TASK = ImageClassification(labels=LABELS, shape=(3, SIDE, SIDE))
UPDATES = LoRA(rank=2, alpha=4.0, dropout=0.3, target_modules=("attention.query", "attention.value"))
STEPS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MobileViT: convolutions with batch norms around layers of attention."""
    config = MobileViTConfig(
        image_size=SIDE,
        hidden_sizes=[16, 16, 16],
        neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 16],
        num_attention_heads=2,
    )
    folder = tmp_path_factory.mktemp("mobilevit") / "model"
    with quiet():
        torch.manual_seed(0)
        MobileViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["pytorch", "mlx"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    name: Runtime = request.param
    if name == "mlx":
        pytest.importorskip("mlx.core", reason="needs the mlx extra")
    return name


def batch() -> Batch:
    pixels = np.random.default_rng(0).normal(2.0, 3.0, (8, 3, SIDE, SIDE)).astype(np.float32)
    return batch_of({"pixel_values": pixels}, np.arange(8) % len(LABELS))


def trained(runtime: Runtime, method: Method, model: Path, folder: Path) -> Engine:
    step = train_step(task=TASK, method=method, metrics=())
    engine = backend(runtime).load_engine(step, model, folder / "init.safetensors", placed(runtime))
    for number in range(STEPS):
        engine.train_step([batch()], denominators={"loss": 8.0}, learning_rates=(0.01,), seed=number).result()
    return engine


def moved_means(engine: Engine, model: Path, folder: Path) -> set[str]:
    """The running means that are no longer those of the model's files."""
    engine.save_state(folder)
    before, state = load_file(model / "model.safetensors"), load_file(folder / "state.safetensors")
    means = {name.partition("mobilevit.")[2]: value for name, value in state.items() if name.endswith("running_mean")}
    assert len(means) == sum(name.endswith("running_mean") for name in before)
    return {name for name, value in means.items() if not np.array_equal(value, before[f"mobilevit.{name}"])}


def test_a_saved_adapter_answers_as_the_engine_does(runtime: Runtime, model: Path, tmp_path: Path) -> None:
    engine = trained(runtime, UPDATES, model, tmp_path)
    assert moved_means(engine, model, tmp_path) == set()
    (tmp_path / "adapter").mkdir()
    engine.save_model(tmp_path / "adapter")
    step = train_step(task=TASK, method=UPDATES, metrics=())
    scores = backend(runtime).scores(step.task, trained_model(step, tmp_path, model), "cpu")
    own = engine.evaluate(batch()).outputs
    np.testing.assert_allclose(scores(batch()), own, rtol=1e-5, atol=1e-6 * float(np.abs(own).max()))


def test_a_checkpoint_moves_to_pytorch(runtime: Runtime, model: Path, tmp_path: Path) -> None:
    trained(runtime, UPDATES, model, tmp_path).save_state(tmp_path)
    found = load_file(tmp_path / "state.safetensors")
    other = trained("pytorch", UPDATES, model, tmp_path)
    other.load_state(tmp_path)
    other.save_state(tmp_path)
    again = load_file(tmp_path / "state.safetensors")
    assert found.keys() == again.keys()
    assert all(np.array_equal(value, again[name]) for name, value in found.items())


def test_means_follow_the_rows_where_all_is_tuned(model: Path, tmp_path: Path) -> None:
    assert moved_means(trained("pytorch", Full(), model, tmp_path), model, tmp_path) != set()
