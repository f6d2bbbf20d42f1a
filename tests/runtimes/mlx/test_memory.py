"""A limit of memory on MLX: what takes more is thrown away, so that it is done again in smaller portions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np

from compiler.methods import Head
from runtimes.loop import train
from runtimes.mlx.backend import load_engine
from runtimes.mlx.engine import MlxEngine
from runtimes.protocol import OutOfMemory
from runtimes.reports import MicroBatchReport, StepReport
from tests.conformance.engines import do_step, micro_batches
from tests.runtimes.tiny import features, placed, train_step
from tests.tiny import save_encoder

GIB = 2**30


@pytest.fixture
def _mlx_limit() -> Iterator[None]:
    """MLX's own limit is as it was afterwards."""
    before = mx.set_memory_limit(GIB)
    yield
    mx.set_memory_limit(before)


@pytest.fixture
def engine(tmp_path: Path, _mlx_limit: None) -> MlxEngine:
    """The tiny BERT with a head to train, and a limit of 1 GiB."""
    save_encoder(tmp_path / "model")
    step = train_step(method=Head(), num_steps=2, checkpoint_every=0)
    return load_engine(step, tmp_path / "model", tmp_path / "init.safetensors", placed("mlx", memory_gib=1))


def test_the_limit_of_the_placement_is_mlx_s_own_and_the_engine_s(engine: MlxEngine) -> None:
    assert mx.set_memory_limit(GIB) == GIB
    assert engine.memory_limit == GIB


@pytest.mark.usefixtures("_mlx_limit")
def test_mlx_s_own_limit_is_advice_on_the_cpu() -> None:
    mx.set_memory_limit(2**20)
    with mx.stream(mx.cpu):
        mx.eval(mx.ones((2**20,)) + 1)
    assert mx.get_peak_memory() > 2**20


def test_a_step_that_took_more_is_out_of_memory_and_changed_nothing(engine: MlxEngine, tmp_path: Path) -> None:
    rows = features(tmp_path / "rows", 60)
    first = do_step(engine, rows, engine.step, 0, 0.1)
    [batch, _] = micro_batches(rows, engine.step, 0)
    before, trained = engine.evaluate(batch), dict(engine.trained)
    peak = engine.peak_memory()
    engine.memory_limit = mx.get_active_memory()
    with pytest.raises(OutOfMemory, match=r"GiB were taken, 0.00 GiB are allowed"):
        do_step(engine, rows, engine.step, 1, 0.1)
    with pytest.raises(OutOfMemory):
        engine.evaluate(batch)
    engine.memory_limit = GIB
    assert all(np.array_equal(engine.trained[name], value) for name, value in trained.items())
    assert np.array_equal(engine.evaluate(batch).outputs, before.outputs)
    assert engine.peak_memory() >= peak
    assert do_step(engine, rows, engine.step, 1, 0.1) != first


def test_the_loop_halves_micro_batches_until_they_fit(engine: MlxEngine, tmp_path: Path) -> None:
    """A step takes some 50 KB for one row, over 150 KB for four."""
    engine.memory_limit = mx.get_active_memory() + 80_000
    rows = features(tmp_path / "rows", 8)
    reports = list(train(engine, rows, None, engine.step, folder=tmp_path, micro_batch_size=8))
    sizes = [report.micro_batch_size for report in reports if isinstance(report, MicroBatchReport)]
    assert sizes[:2] == [4, 2]
    assert sum(isinstance(report, StepReport) for report in reports) == 2
