"""One suite over the engines: the same batches, the same loss, and files that both read.

A cover of the tasks and methods; `make matrix` runs them all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

from compiler.methods import Full, Head, LoRA, Method
from compiler.plan import Train
from compiler.recipe import SGD, Adam, AdamW, MeanSquaredError
from compiler.tasks import TextRegression
from runtimes.backends import backend
from runtimes.errors import RunError
from runtimes.loop import train
from runtimes.mlx import backend as mlx
from runtimes.mlx.engine import MlxEngine
from runtimes.mlx.weights import load_weights, weight_files
from runtimes.protocol import Engine
from runtimes.pytorch import backend as pytorch
from runtimes.reports import StepReport
from runtimes.rows.features import Features
from tests.conformance import engines
from tests.conformance.cells import over_limits
from tests.conformance.subjects import Subject, cover, every_masked, write
from tests.runtimes.tiny import batch_of, features, placed, train_step
from tests.tiny import save_encoder

COVER = cover()
# All of the weights on each task, and the first adapter: the others run with the long suites.
ALWAYS = [*(subject for subject in COVER[:16] if subject.method == "full"), COVER[1]]
CASES = [pytest.param(each, marks=() if each in ALWAYS else pytest.mark.long) for each in COVER]
LORA = LoRA(rank=4, alpha=8.0, target_modules=("query", "value", "dense"))


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
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


@pytest.fixture(scope="module")
def traced_lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> MlxEngine:
    """An engine to trace once, and to make others of with other optimizers."""
    return loaded_mlx(step_of(LORA), model, tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> MlxEngine:
    """An engine whose model has dropout, and its adapter too."""
    folder = tmp_path_factory.mktemp("dropping")
    return loaded_mlx(step_of(replace(LORA, dropout=0.3)), save_model(folder / "model", 0.3), folder)


def step_of(method: Method, **changes: Any) -> Train:
    """AdamW with a schedule, weight decay and clipping."""
    settings = {"optimizer": AdamW(), "weight_decay": 0.01, "max_grad_norm": 0.5, "learning_rate": 1e-2}
    loss = {"class_weights": (2.0, 1.0, 0.5), "label_smoothing": 0.1}
    return train_step(**{**settings, **loss, "method": method, **changes})


def loaded_mlx(step: Train, model: Path, folder: Path) -> MlxEngine:
    return mlx.load_engine(step, model, folder / "init.safetensors", placed("mlx"))


def like(engine: MlxEngine, step: Train) -> MlxEngine:
    """A new engine of the same graphs with the first values of all parameters."""
    weights = load_weights(engine.traced.train, weight_files(engine.folder), engine.traced.names)
    return MlxEngine(step, engine.traced, weights, engine.folder, engine.placement)


@pytest.mark.parametrize("subject", [*CASES, every_masked()[0]], ids=str)
def test_mlx_trains_as_pytorch_does(subject: Subject, tmp_path: Path) -> None:
    project = write(subject, tmp_path)
    step, read = engines.train_step(project), engines.prepared(project)
    expected, found = (engines.twenty_steps(name, step, project.model, read, tmp_path) for name in ("pytorch", "mlx"))
    figures = engines.compare(found, expected)
    if subject in COVER[:2]:  # all of a model, and an adapter
        figures |= engines.saved("mlx", found.engine, step, project.model, read, tmp_path)
    assert over_limits(figures) == []


@pytest.mark.parametrize("optimizer", [AdamW(), Adam(), SGD(), SGD(momentum=0.9)], ids=str)
def test_a_checkpoint_moves_between_the_engines(
    optimizer: Any, traced_lora: MlxEngine, rows: Features, tmp_path: Path
) -> None:
    step = replace(traced_lora.step, optimizer=optimizer)
    whole, part = (pytorch.load_engine(step, traced_lora.folder, tmp_path / "i", placed()) for _ in range(2))
    found: dict[str, Engine] = {"pytorch": part, "mlx": like(traced_lora, step)}
    order = ("pytorch", "mlx", "pytorch", "mlx")
    for number, name in enumerate(order):
        if number:
            found[order[number - 1]].save_state(tmp_path)
            found[name].load_state(tmp_path)
        expected = engines.do_step(whole, rows, step, number, 1e-2)
        assert engines.do_step(found[name], rows, step, number, 1e-2) == pytest.approx(expected, rel=1e-4)


def test_dropout_follows_the_seed_of_the_step_and_differs_between_steps(dropping: MlxEngine, rows: Features) -> None:
    engine = like(dropping, dropping.step)
    batches = engines.micro_batches(rows, engine.step, 0)

    def loss(seed: int) -> float:
        done = engine.train_step(batches, denominators={"loss": 9.0}, learning_rates=(0.0,), seed=seed)
        return done.result().losses["loss"]

    assert loss(1) == loss(1) != loss(2)
    first = engine.evaluate(batches[0])
    assert np.array_equal(engine.evaluate(batches[0]).losses, first.losses)


def test_one_graph_is_compiled_for_each_shape(dropping: MlxEngine, rows: Features, tmp_path: Path) -> None:
    step = replace(dropping.step, num_steps=12, evaluate_every=6, checkpoint_every=100)
    engine = like(dropping, step)
    reports = list(train(engine, rows, rows, step, folder=tmp_path, micro_batch_size=4))
    assert sum(isinstance(report, StepReport) for report in reports) == 12
    assert 0 < engine.num_graphs <= 2 * len(step.lengths)
    assert engine.peak_memory() > 0


def test_bf16_keeps_float32_masters_and_stays_near(model: Path, rows: Features, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    step = step_of(Full(), precision="bf16")
    short = loaded_mlx(step, model, tmp_path)
    exact = pytorch.load_engine(replace(step, precision="fp32"), model, tmp_path / "init.safetensors", placed())
    found, expected = ([engines.do_step(engine, rows, step, n, 1e-2)[0] for n in range(5)] for engine in (short, exact))
    short.save_state(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "state.safetensors").values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(found, expected, rtol=0.03)
    assert np.abs(np.subtract(found, expected)).max() > 1e-4, "it does compute in bfloat16"


def test_an_adapter_of_rank_1_on_a_head_of_one_output_is_saved_in_the_rows_unit(
    model: Path, rows: Features, tmp_path: Path
) -> None:
    """Its matrices have as many rows as the head: what a scale is folded into is told by the module, not by shape."""
    regression = {"task": TextRegression(mean=1.0, deviation=8.0), "loss": MeanSquaredError(), "class_weights": None}
    method = LoRA(rank=1, alpha=2.0, target_modules=("query", "dense"))
    step = step_of(method, label_smoothing=0.0, **regression)
    engine = loaded_mlx(step, model, tmp_path)
    engines.do_step(engine, rows, step, 0, 1e-2)
    assert engines.saved("mlx", engine, step, model, rows, tmp_path)["saved"] < 1e-5


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
    ids = np.random.default_rng(0).integers(5, 60, (2, 500))
    batch = batch_of({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    outputs = {}
    for precision in ("fp32", "bf16"):
        step = step_of(Head(), precision=precision)
        for name in ("pytorch", "mlx"):
            engine = backend(name).load_engine(step, tmp_path / "model", tmp_path / "init.safetensors", placed(name))
            outputs[precision, name] = engine.evaluate(batch).outputs
    exact = outputs["fp32", "pytorch"]
    away = {name: np.abs(outputs["bf16", name] - exact).max() / np.abs(exact).max() for name in ("pytorch", "mlx")}
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
        loaded_mlx(step_of(Head()), tmp_path / "model", tmp_path)
    assert caught.value.code == "E408"
    assert "--runtime pytorch" in caught.value.hint


def test_a_device_that_is_not_there_is_an_error(model: Path, tmp_path: Path) -> None:
    import mlx.core as mx

    if mx.is_available(mx.Device(mx.gpu)):
        pytest.skip("there is a GPU here")
    with pytest.raises(RunError) as caught:
        mlx.load_engine(step_of(Head()), model, tmp_path / "init.safetensors", placed("mlx", "mps"))
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
        mlx.load_engine(step_of(Full()), folder, tmp_path / "init.safetensors", placed("mlx"))
    assert caught.value.code == "E406"
