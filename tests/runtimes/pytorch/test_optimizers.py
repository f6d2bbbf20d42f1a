"""AdamW whose moments bitsandbytes holds: near the exact one, resumed to the bit, and refused where it can't be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file

from compiler.moments import PACKAGE
from compiler.plan import Train
from compiler.recipe import AdamW
from runtimes.backends import backend, require_moments
from runtimes.errors import RunError
from runtimes.protocol import Engine
from runtimes.rows.features import Features
from tests.conformance.engines import do_step
from tests.runtimes.test_engines import save_model
from tests.runtimes.tiny import features, placed, train_step

EIGHT = AdamW(state="8-bit")
needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="needs the bitsandbytes extra, which no other test needs"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of its weights have 4096 numbers and more: smaller ones keep moments of 32 bits."""
    import json

    from transformers import BertConfig, BertModel

    from runtimes.pytorch.quiet import quiet

    folder = save_model(tmp_path_factory.mktemp("exact") / "model", 0.0)
    config = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 256}
    with quiet():
        torch.manual_seed(0)
        BertModel(BertConfig(**config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


def step_of(optimizer: AdamW, **changes: Any) -> Train:
    return train_step(optimizer=optimizer, weight_decay=0.01, max_grad_norm=1.0, learning_rate=3e-3, **changes)


def load(step: Train, model: Path, folder: Path) -> Engine:
    return backend("pytorch").load_engine(step, model, folder / "init.safetensors", placed())


def steps(engine: Engine, rows: Features, step: Train, numbers: range) -> list[tuple[float, float]]:
    return [do_step(engine, rows, step, number, 3e-3) for number in numbers]


def state_of(engine: Engine, folder: Path) -> dict[str, Any]:
    engine.save_state(folder)
    return dict(load_file(folder / "state.safetensors"))


@needs_package
def test_moments_in_8_bits_train_nearly_as_exact_ones_do(model: Path, rows: Features, tmp_path: Path) -> None:
    exact, held = (load(step_of(optimizer), model, tmp_path) for optimizer in (AdamW(), EIGHT))
    expected, found = (steps(engine, rows, step_of(EIGHT), range(12)) for engine in (exact, held))
    losses, near = np.asarray(expected)[:, 0], np.asarray(found)[:, 0]
    np.testing.assert_allclose(near, losses, rtol=0.03)  # 8 bits of a moment are a percent of the block's largest
    assert not np.array_equal(near, losses)
    state = state_of(held, tmp_path)
    wide = {name.split("/")[1] for name, value in state.items() if name.endswith("state1") and value.dtype == np.uint8}
    assert wide == {
        f"bert.encoder.layer.{n}.{part}.dense.weight" for n in (0, 1) for part in ("intermediate", "output")
    }
    assert state["optimizer/bert.embeddings.word_embeddings.weight/state1"].dtype == np.float32


@needs_package
@pytest.mark.parametrize("changes", [{}, {"unfreeze_every": 2, "layer_decay": 0.5, "ema_decay": 0.9}], ids=str)
def test_a_resumed_training_has_the_same_bits(
    changes: dict[str, Any], model: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(EIGHT, **changes)
    whole, before, after = (load(step, model, tmp_path) for _ in range(3))
    steps(whole, rows, step, range(8))
    expected = state_of(whole, tmp_path)
    steps(before, rows, step, range(5))
    before.save_state(tmp_path)
    after.load_state(tmp_path)
    steps(after, rows, step, range(5, 8))
    found = state_of(after, tmp_path)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


@needs_package
def test_what_is_frozen_has_no_moments(model: Path, rows: Features, tmp_path: Path) -> None:
    step = step_of(EIGHT, unfreeze_every=2)
    engine = load(step, model, tmp_path)
    steps(engine, rows, step, range(2))
    held = {name.split("/")[1] for name in state_of(engine, tmp_path) if name.startswith("optimizer/")}
    assert held == {"classifier.weight", "classifier.bias"}


@needs_package
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("state", ["32-bit", "8-bit"])
def test_paged_moments_train_as_those_on_the_device_do(state: Any, model: Path, rows: Features, tmp_path: Path) -> None:
    found = []
    for paged in (False, True):
        step = step_of(AdamW(state=state, paged=paged))
        engine = backend("pytorch").load_engine(step, model, tmp_path / "init.safetensors", placed("pytorch", "cuda"))
        steps(engine, rows, step, range(4))
        engine.save_state(tmp_path)
        engine.load_state(tmp_path)
        found.append(steps(engine, rows, step, range(4, 8)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_an_engine_that_has_no_such_moments_says_where_they_are() -> None:
    for optimizer, placement in (
        (EIGHT, placed("mlx")),
        (EIGHT, placed("pytorch", "mps")),
        (AdamW(paged=True), placed("pytorch", "cpu")),
    ):
        with pytest.raises(RunError) as caught:
            require_moments(step_of(optimizer), placement)
        assert caught.value.code == "E409"
        assert "need pytorch on cuda" in caught.value.message


@pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is not None, reason="bitsandbytes is installed")
def test_a_package_that_is_not_there_is_named_with_its_extra(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        load(step_of(EIGHT), model, tmp_path)
    assert caught.value.code == "E402"
    assert 'pip install "recipec[bitsandbytes]"' in caught.value.hint
    require_moments(step_of(AdamW()), placed("mlx"))
