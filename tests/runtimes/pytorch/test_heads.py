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
from runtimes.pytorch.loading import load_source
from runtimes.pytorch.noise import float32_noise
from runtimes.pytorch.quiet import quiet
from runtimes.pytorch.scores import torch_scores
from runtimes.saved import Adapter, SavedModel
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
    step = train_step(**{"task": TASK, "loss": MeanSquaredError(), **changes})
    engine = load(step, encoder, folder / "init.safetensors")
    for seed in range(3):
        engine.train_step([batch], denominators={"loss": float(batch.targets.size)}, learning_rates=[0.1], seed=seed)
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
    np.testing.assert_allclose(torch_scores(SavedModel(tmp_path / "model"), HEAD)(batch), own, rtol=1e-5)
    with quiet():
        config = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").config
    assert (config.problem_type, config.num_labels) == ("regression", 1)


def test_a_saved_adapter_answers_in_the_rows_unit(encoder: Path, batch: Batch, tmp_path: Path) -> None:
    engine = trained(encoder, batch, tmp_path, method=LoRA(rank=1, alpha=2.0, target_modules=("query", "value")))
    engine.save_model(tmp_path / "adapter")
    found = torch_scores(SavedModel(encoder, Adapter(tmp_path / "adapter", LoRA())), HEAD)(batch)
    np.testing.assert_allclose(found, engine.evaluate(batch).outputs, rtol=1e-5)


SEVERAL = TextRegression(targets=("stars", "length"), mean=(3.0, 5000.0), deviation=(0.5, 800.0))


@pytest.fixture
def batch_of_several(batch: Batch) -> Batch:
    targets = np.random.default_rng(1).normal((3.0, 5000.0), (0.5, 800.0), (6, 2)).astype(np.float32)
    return batch_of(batch.inputs, targets)


@pytest.mark.parametrize("loss", [MeanSquaredError(), MeanAbsoluteError(), Huber(delta=0.7)], ids=str)
def test_each_target_has_the_loss_that_it_would_have_alone(
    encoder: Path, batch_of_several: Batch, tmp_path: Path, loss: Any
) -> None:
    found = trained(encoder, batch_of_several, tmp_path, loss=loss, task=SEVERAL).evaluate(batch_of_several)
    expected = text_regression.losses(loss, SEVERAL, batch_of_several.targets, found.outputs)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)


def test_two_independent_heads_descend_on_the_mean_of_their_losses(
    encoder: Path, batch_of_several: Batch, tmp_path: Path
) -> None:
    """The gradient of each row of the head's weight is half of what that target's head would have alone."""
    engine = load(train_step(task=SEVERAL, loss=MeanSquaredError()), encoder, tmp_path / "init.safetensors")
    inputs = {name: torch.as_tensor(value) for name, value in batch_of_several.inputs.items()}
    losses, outputs = engine.objective(inputs, torch.as_tensor(batch_of_several.targets))
    loss = losses.sum() / batch_of_several.targets.size
    [together] = torch.autograd.grad(loss, [engine.trained["classifier.weight"]], retain_graph=True)
    for place, (mean, deviation) in enumerate(((3.0, 0.5), (5000.0, 800.0))):
        target = torch.tensor((batch_of_several.targets[:, place] - mean) / deviation)
        alone = ((outputs[:, place] - mean) / deviation - target).square().mean()
        [own] = torch.autograd.grad(alone, [engine.trained["classifier.weight"]], retain_graph=True)
        torch.testing.assert_close(together[place], own[place] / 2, rtol=1e-3, atol=1e-5)
        assert not own[1 - place].any()


@pytest.mark.parametrize("method", [Full(), LoRA(rank=1, alpha=2.0, target_modules=("query", "value"))], ids=str)
def test_a_saved_model_of_several_targets_answers_in_the_unit_of_each(
    encoder: Path, batch_of_several: Batch, tmp_path: Path, method: Any
) -> None:
    engine = trained(encoder, batch_of_several, tmp_path, method=method, task=SEVERAL)
    before = {name: value.detach().clone() for name, value in engine.trained.items()}
    engine.save_model(tmp_path / "saved")
    assert all(torch.equal(value, before[name]) for name, value in engine.trained.items())
    own, head = engine.evaluate(batch_of_several).outputs, text_regression.head(SEVERAL)
    if isinstance(method, LoRA):
        found = torch_scores(SavedModel(encoder, Adapter(tmp_path / "saved", LoRA())), head)(batch_of_several)
    else:
        with quiet():
            model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
        assert (model.config.problem_type, model.config.num_labels) == ("regression", 2)
        assert model.config.id2label == {0: "stars", 1: "length"}
        inputs = {name: torch.as_tensor(value) for name, value in batch_of_several.inputs.items()}
        with torch.inference_mode():
            found = model(**inputs).logits.numpy()
    np.testing.assert_allclose(found, own, rtol=1e-4)
    assert abs(found[:, 0].mean() - 3.0) < 3.0 and abs(found[:, 1].mean() - 5000.0) < 5000.0


def test_the_noise_of_several_targets_is_in_their_deviations(
    encoder: Path, batch_of_several: Batch, tmp_path: Path
) -> None:
    engine = trained(encoder, batch_of_several, tmp_path, task=SEVERAL)
    engine.save_model(tmp_path / "saved")
    head = text_regression.head(SEVERAL)
    noise = float32_noise(load_source(tmp_path / "saved"), [batch_of_several], head)
    answers = torch_scores(SavedModel(tmp_path / "saved"), head)(batch_of_several)
    assert noise.scale == pytest.approx(float(np.abs(answers / np.asarray(head.units)).max()), rel=1e-4)
    plain = float32_noise(load_source(tmp_path / "saved"), [batch_of_several], replace(head, scale=(1.0,)))
    assert noise.max_abs < plain.max_abs


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
