"""A head whose answers are numbers: trained in standard deviations, saved so that it answers in the rows' unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from transformers import AutoModelForSequenceClassification

from compiler.methods import Full, LoRA
from compiler.recipe import Huber, MeanAbsoluteError, MeanSquaredError
from compiler.tasks import TextRegression
from runtimes.errors import RunError
from runtimes.protocol import Batch
from runtimes.pytorch.engine import load
from runtimes.pytorch.heads import LastLayer, folded, last_layer
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.scores import adapter_scores, torch_scores
from runtimes.tasks import text_regression
from tests.runtimes.tiny import batch_of, train_step
from tests.tiny import save_encoder

TASK = TextRegression(mean=50.0, deviation=8.0)
HEAD = text_regression.head(TASK)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "model"
    save_encoder(folder)
    return folder


@pytest.fixture
def batch() -> Batch:
    random = np.random.default_rng(0)
    mask = (np.arange(8) < random.integers(2, 9, 6)[:, None]).astype(np.int64)
    inputs = {"input_ids": random.integers(5, 20, (6, 8)), "attention_mask": mask}
    return batch_of(inputs, random.normal(50.0, 8.0, 6).astype(np.float32))


def trained(encoder: Path, batch: Batch, folder: Path, **changes: Any) -> Any:
    step = train_step(task=TASK, **{"loss": MeanSquaredError(), **changes})
    engine = load(step, encoder, folder / "init.safetensors")
    for seed in range(3):
        engine.train_step([batch], denominators={"loss": 6.0}, learning_rates=[0.1], seed=seed)
    return engine


@pytest.mark.parametrize("loss", [MeanSquaredError(), MeanAbsoluteError(), Huber(delta=0.7)], ids=str)
def test_the_engine_s_losses_are_those_of_the_task(encoder: Path, batch: Batch, tmp_path: Path, loss: Any) -> None:
    found = trained(encoder, batch, tmp_path, loss=loss).evaluate(batch)
    np.testing.assert_allclose(
        found.losses, text_regression.losses(loss, TASK, batch.targets, found.outputs), rtol=1e-4
    )


def test_a_saved_model_answers_in_the_rows_unit(encoder: Path, batch: Batch, tmp_path: Path) -> None:
    engine = trained(encoder, batch, tmp_path, method=Full())
    before = {name: value.detach().clone() for name, value in engine.trained.items()}
    engine.save_model(tmp_path / "model")
    assert all(torch.equal(value, before[name]) for name, value in engine.trained.items())
    own = engine.evaluate(batch).outputs
    np.testing.assert_allclose(torch_scores(tmp_path / "model", HEAD)(batch), own, rtol=1e-5)
    with quiet():
        config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").config
    assert (config.problem_type, config.num_labels) == ("regression", 1)


def test_a_saved_adapter_answers_in_the_rows_unit(encoder: Path, batch: Batch, tmp_path: Path) -> None:
    engine = trained(encoder, batch, tmp_path, method=LoRA(rank=1, alpha=2.0, target_modules=("query", "value")))
    engine.save_model(tmp_path / "adapter")
    found = adapter_scores(encoder, tmp_path / "adapter", HEAD)(batch)
    np.testing.assert_allclose(found, engine.evaluate(batch).outputs, rtol=1e-5)


class Scored(torch.nn.Module):
    """A head without a bias, as decoders have it."""

    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Linear(4, 1, bias=False)


def test_what_can_not_be_folded_is_an_error_before_training() -> None:
    with pytest.raises(RunError, match="no bias to put the mean on"):
        last_layer(Scored(), ["score"], HEAD)
    with pytest.raises(RunError, match="no linear layer at its end"):
        last_layer(Scored(), [], HEAD)
    assert last_layer(Scored(), ["score"], replace(HEAD, shift=(0.0,))) == LastLayer("score.weight", None)
    assert last_layer(Scored(), [], replace(HEAD, shift=(0.0,), scale=(1.0,))) is None


def test_a_scale_alone_is_folded_and_taken_back_to_the_bit() -> None:
    model, head = Scored(), replace(HEAD, shift=(0.0,))
    weight, x = model.score.weight.detach().clone(), torch.ones(4)
    with folded(dict(model.named_parameters()), LastLayer("score.weight", None), head):
        assert torch.allclose(model.score(x), 8.0 * (x @ weight.t()))
    assert torch.equal(model.score.weight, weight)
