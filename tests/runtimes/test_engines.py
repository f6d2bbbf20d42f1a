"""One suite over the engines: every task and method, the same batches, the same loss, and files that both read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from compiler.methods import Freeze, Full, Head, LoRA, Method
from compiler.plan import Train
from compiler.recipe import SGD, Adam, AdamW, Huber, MeanSquaredError
from compiler.tasks import TextRegression
from runtimes.batches import collate
from runtimes.errors import RunError
from runtimes.features import Features
from runtimes.loop import train
from runtimes.mlx import backend as mlx
from runtimes.protocol import Batch, Engine
from runtimes.pytorch import backend as pytorch
from runtimes.reports import StepReport
from runtimes.schedule import learning_rate
from tests.runtimes.tiny import features, train_step, weigh
from tests.tiny import save_encoder

STEPS = 20
METHODS: dict[str, Method] = {
    "full": Full(),
    "head": Head(),
    "freeze": Freeze(layers=1),
    "lora": LoRA(rank=4, alpha=8.0, target_modules=("query", "value", "dense")),
    "lora of rank 1": LoRA(rank=1, alpha=2.0, target_modules=("query", "dense")),
}
TASKS: dict[str, dict[str, Any]] = {
    "text-classification": {"class_weights": (2.0, 1.0, 0.5), "label_smoothing": 0.1},
    "text-regression": {"task": TextRegression(mean=1.0, deviation=0.5), "loss": MeanSquaredError()},
    "text-regression, huber": {"task": TextRegression(mean=1.0, deviation=0.5), "loss": Huber(delta=0.5)},
}
BACKENDS = {"pytorch": pytorch, "mlx": mlx}


def save_model(folder: Path, dropout: float) -> Path:
    """The tiny BERT, with this dropout everywhere."""
    save_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("exact") / "model", 0.0)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("dropping") / "model", 0.3)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


def step_of(method: str, task: str = "text-classification", **changes: Any) -> Train:
    """AdamW with a schedule, weight decay and clipping."""
    settings = {"optimizer": AdamW(), "weight_decay": 0.01, "max_grad_norm": 0.5, "learning_rate": 1e-2}
    return train_step(**{**settings, **TASKS[task], "method": METHODS[method], **changes})


def loaded(name: str, step: Train, model: Path, folder: Path) -> Engine:
    """An engine; both read the first values of new parameters from one file."""
    engine: Engine = BACKENDS[name].load_engine(step, model, folder / "init.safetensors", "cpu")
    return engine


def micro_batches(rows: Features, step: Train, number: int) -> tuple[Batch, ...]:
    """Two portions of other lengths; the last one has a row of weight zero."""
    start = number % 40
    parts = (np.arange(start, start + 5), np.arange(start + 5, start + 9))
    return tuple(collate(rows, part, grid=step.lengths, weigh=weigh(step), fill_to=5) for part in parts)


def do_step(engine: Engine, rows: Features, step: Train, number: int, rate: float) -> tuple[float, float]:
    batches = micro_batches(rows, step, number)
    total = float(sum(batch.weights.sum() for batch in batches))
    result = engine.train_step(batches, denominators={"loss": total}, learning_rates=(rate,), seed=number).result()
    return result.losses["loss"], result.grad_norm


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_twenty_steps_lose_the_same_on_both(
    method: str, task: str, model: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(method, task)
    rates = [learning_rate(step.schedule, step.learning_rate, number) for number in range(STEPS)]
    found = {}
    for name in BACKENDS:
        engine = loaded(name, step, model, tmp_path)
        figures = [do_step(engine, rows, step, number, rate) for number, rate in enumerate(rates)]
        last = engine.evaluate(micro_batches(rows, step, 3)[0])
        found[name] = (np.asarray(figures), last.losses, last.outputs, engine.num_parameters)
    ours, theirs = found["mlx"], found["pytorch"]
    np.testing.assert_allclose(ours[0][:, 0], theirs[0][:, 0], rtol=1e-4)
    np.testing.assert_allclose(ours[0][:, 1], theirs[0][:, 1], rtol=2e-3)  # of the gradient, after twenty roundings
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-3, atol=1e-3)
    assert ours[3] == theirs[3]


@pytest.mark.parametrize("optimizer", [AdamW(), Adam(), SGD(), SGD(momentum=0.9)], ids=str)
def test_a_checkpoint_moves_between_the_engines(optimizer: Any, model: Path, rows: Features, tmp_path: Path) -> None:
    step = step_of("lora", optimizer=optimizer)
    engines = {name: loaded(name, step, model, tmp_path) for name in BACKENDS}
    whole = loaded("pytorch", step, model, tmp_path)
    order = ("pytorch", "mlx", "pytorch", "mlx")
    (tmp_path / "state").mkdir()
    for number, name in enumerate(order):
        if number:
            engines[order[number - 1]].save_state(tmp_path / "state")
            engines[name].load_state(tmp_path / "state")
        expected = do_step(whole, rows, step, number, 1e-2)
        assert do_step(engines[name], rows, step, number, 1e-2) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("task", ["text-classification", "text-regression"])
@pytest.mark.parametrize("method", METHODS)
def test_what_mlx_saves_both_read(method: str, task: str, model: Path, rows: Features, tmp_path: Path) -> None:
    step = step_of(method, task)
    engine = loaded("mlx", step, model, tmp_path)
    do_step(engine, rows, step, 0, 1e-2)
    folder = tmp_path / "trained" / mlx.trained_folder(step)
    folder.mkdir(parents=True)
    engine.save_model(folder)
    [batch, _] = micro_batches(rows, step, 0)
    own = engine.evaluate(batch).outputs
    for back in BACKENDS.values():
        scores = back.trained_scores(step, tmp_path / "trained", model, "cpu")
        np.testing.assert_allclose(scores(batch), own, rtol=1e-5, atol=1e-6)


def test_dropout_follows_the_seed_of_the_step_and_differs_between_steps(
    dropping: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of("full")
    engine = loaded("mlx", step, dropping, tmp_path)
    batches = micro_batches(rows, step, 0)

    def loss(seed: int) -> float:
        done = engine.train_step(batches, denominators={"loss": 9.0}, learning_rates=(0.0,), seed=seed)
        return done.result().losses["loss"]

    assert loss(1) == loss(1) != loss(2)
    first = engine.evaluate(batches[0])
    assert np.array_equal(engine.evaluate(batches[0]).losses, first.losses)


def test_one_graph_is_compiled_for_each_shape(model: Path, rows: Features, tmp_path: Path) -> None:
    step = step_of("head", num_steps=12, evaluate_every=6, checkpoint_every=100)
    engine = loaded("mlx", step, model, tmp_path)
    reports = list(train(engine, rows, rows, step, folder=tmp_path, micro_batch_size=4))
    assert sum(isinstance(report, StepReport) for report in reports) == 12
    assert 0 < engine.num_graphs <= 2 * len(step.lengths)
    assert engine.peak_memory() > 0


def test_bf16_keeps_float32_masters_and_stays_near(model: Path, rows: Features, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        step = step_of("full", precision=precision)
        engine = loaded("mlx", step, model, tmp_path)
        losses[precision] = [do_step(engine, rows, step, number, 1e-2)[0] for number in range(5)]
        engine.save_state(tmp_path)
        from safetensors.numpy import load_file

        assert {value.dtype for value in load_file(tmp_path / "state.safetensors").values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.03)
    assert losses["bf16"] != losses["fp32"]


def test_bf16_keeps_the_angles_of_long_rows(tmp_path: Path) -> None:
    """Rotary frequencies in bfloat16 are off by a thousandth, which is half a turn after some hundred positions."""
    from transformers import LlamaConfig, LlamaModel

    from runtimes.pytorch.quiet import quiet

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=600,
        pad_token_id=0,
        initializer_range=0.2,
    )
    with quiet():
        LlamaModel(config).save_pretrained(tmp_path / "model")
    outputs = {}
    ids = np.random.default_rng(0).integers(5, 60, (2, 500))
    batch = Batch(
        inputs={"input_ids": ids, "attention_mask": np.ones_like(ids)},
        targets=np.zeros(2, np.int64),
        weights=np.ones(2, np.float32),
        rows=np.arange(2),
    )
    for precision in ("fp32", "bf16"):
        for name in BACKENDS:
            engine = loaded(name, step_of("head", precision=precision), tmp_path / "model", tmp_path)
            outputs[precision, name] = engine.evaluate(batch).outputs
    scale = np.abs(outputs["fp32", "pytorch"]).max()
    away = {name: np.abs(outputs["bf16", name] - outputs["fp32", "pytorch"]).max() / scale for name in BACKENDS}
    assert away["mlx"] < max(2 * away["pytorch"], 0.05)


def test_a_model_that_does_not_trace_is_named_before_its_weights_are_loaded(tmp_path: Path) -> None:
    from transformers import LongformerConfig, LongformerModel

    from runtimes.pytorch.quiet import quiet

    config = LongformerConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=40,
        attention_window=[4],
    )
    with quiet():
        LongformerModel(config).save_pretrained(tmp_path / "model")
    with pytest.raises(RunError) as caught:
        loaded("mlx", step_of("head"), tmp_path / "model", tmp_path)
    assert caught.value.code == "E408"
    assert "--runtime pytorch" in caught.value.hint


def test_a_device_that_is_not_there_is_an_error(model: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    if mx.is_available(mx.Device(mx.gpu)):
        pytest.skip("there is a GPU here")
    with pytest.raises(RunError) as caught:
        mlx.load_engine(step_of("head"), model, tmp_path / "init.safetensors", "mps")
    assert caught.value.code == "E407"


def test_weights_that_the_files_lack_are_named(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "cut"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whole = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in whole.items() if "layer.1.output" not in name}, folder / "model.safetensors"
    )
    with pytest.raises(RunError, match=r"lack weights of the encoder: .*layer\.1\.output") as caught:
        mlx.load_engine(replace(step_of("full")), folder, tmp_path / "init.safetensors", "cpu")
    assert caught.value.code == "E406"
