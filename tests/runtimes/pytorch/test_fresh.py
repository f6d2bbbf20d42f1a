"""Weights that are drawn anew: as the model's own class draws them, by the seed, once for every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file
from transformers import GPT2Config

from compiler.methods import Full, Scratch
from compiler.tasks import ContinuedPretraining
from runtimes import tasks
from runtimes.errors import RunError
from runtimes.pytorch.fresh import begun_with, drawn
from tests.runtimes.tiny import train_step
from tests.tiny import save_encoder

WEIGHTS = "model.safetensors"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model's folder without weights."""
    save_encoder(tmp_path / "model")
    (tmp_path / "model" / WEIGHTS).unlink()
    return tmp_path / "model"


def test_only_the_configuration_is_read_and_what_is_drawn_stays(bare: Path, tmp_path: Path) -> None:
    step = train_step(method=Scratch())
    fresh = begun_with(step, bare, tmp_path)
    before = (fresh / WEIGHTS).read_bytes()
    (bare / "config.json").unlink()
    assert begun_with(step, bare, tmp_path) == fresh
    assert (fresh / WEIGHTS).read_bytes() == before


def test_the_seed_draws_and_the_process_s_own_numbers_stay(bare: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = [
        load_file(begun_with(train_step(method=Scratch(), seed=seed), bare, tmp_path / place) / WEIGHTS)
        for place, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.equal(torch.rand(3), expected)
    name = "bert.encoder.layer.0.output.dense.weight"
    np.testing.assert_array_equal(found[0][name], found[1][name])
    assert not np.array_equal(found[0][name], found[2][name])


def test_weights_are_drawn_as_the_class_says(bare: Path, tmp_path: Path) -> None:
    found = load_file(begun_with(train_step(method=Scratch()), bare, tmp_path) / WEIGHTS)
    assert found["bert.encoder.layer.0.intermediate.dense.weight"].std() == pytest.approx(0.1, rel=0.1)
    np.testing.assert_array_equal(found["bert.encoder.layer.1.output.LayerNorm.weight"], 1.0)
    np.testing.assert_array_equal(found["bert.encoder.layer.1.output.dense.bias"], 0.0)
    np.testing.assert_array_equal(found["bert.embeddings.word_embeddings.weight"][0], 0.0)  # padding


def test_special_cases_are_the_class_s_own(tmp_path: Path) -> None:
    """GPT-2 draws what residuals add with 1 / sqrt(2 layers) of the usual deviation."""
    GPT2Config(n_layer=8, n_embd=64, n_head=4, vocab_size=50, initializer_range=0.1).save_pretrained(tmp_path)
    task = ContinuedPretraining(objective="causal")
    model: Any = drawn(tmp_path, tasks.module_of(task).head(task), seed=0)
    layer = model.transformer.h[3]
    assert layer.attn.c_attn.weight.std().item() == pytest.approx(0.1, rel=0.05)
    assert layer.attn.c_proj.weight.std().item() == pytest.approx(0.1 / 4, rel=0.05)


def test_other_methods_begin_with_the_model(bare: Path, tmp_path: Path) -> None:
    assert begun_with(train_step(method=Full()), bare, tmp_path) == bare


def test_an_architecture_that_is_not_known_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(RunError) as caught:
        begun_with(train_step(method=Scratch()), tmp_path, tmp_path / "out")
    assert caught.value.code == "E406"
