"""What AdaLoRA does beside the optimizer: its term of the loss, and ranks that are taken until the budget is kept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from compiler.methods import AdaLoRA
from compiler.placement import DeviceKind
from compiler.plan import Train
from runtimes.backends import backend
from runtimes.errors import RunError
from runtimes.pytorch.backend import load_engine
from runtimes.pytorch.engine import TorchEngine
from runtimes.pytorch.methods.adalora import Course
from runtimes.rows.features import Features
from runtimes.saved import trained_model
from tests.conformance.engines import do_step, micro_batches, prepared, train_step, unpacked
from tests.conformance.subjects import Project, Subject, write
from tests.runtimes.tiny import placed

STEPS = 20
SUBJECT = Subject(task="text-classification", loss="cross-entropy", method="adalora", encoder="bert")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield write(SUBJECT, tmp_path_factory.mktemp("adalora") / "project")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows(project: Project) -> Features:
    return prepared(project)


def begun(
    project: Project, folder: Path, *, ema_decay: float = 0.0, device: DeviceKind = "cpu", **changes: float
) -> TorchEngine:
    step = train_step(project)
    assert isinstance(step.method, AdaLoRA)
    varied: Train = replace(step, method=replace(step.method, **changes), ema_decay=ema_decay)  # type: ignore[arg-type]
    return load_engine(varied, project.model, folder / "init.safetensors", placed(device=device))


def walk(engine: TorchEngine, rows: Features, start: int, end: int) -> None:
    for number in range(start, end):
        do_step(engine, rows, engine.step, number, 5e-3)


def ranks(engine: TorchEngine) -> dict[str, int]:
    """How many ranks of each update are left."""
    assert isinstance(engine.course, Course)
    return {name: sum(ranks) for name, ranks in engine.course.kept.items()}


def test_all_ranks_stay_at_first_and_the_budget_is_kept_in_the_end(
    project: Project, rows: Features, tmp_path: Path
) -> None:
    """20 steps: none taken in the first 2, the last 6 take none; 12 updates have 4 ranks at first and 2 in the mean."""
    engine = begun(project, tmp_path)
    walk(engine, rows, 0, 2)
    assert set(ranks(engine).values()) == {4}
    walk(engine, rows, 2, 8)
    assert 24 < sum(ranks(engine).values()) < 48
    walk(engine, rows, 8, 14)
    left = ranks(engine)
    assert (len(left), sum(left.values())) == (12, 24)
    walk(engine, rows, 14, STEPS)
    assert ranks(engine) == left
    (tmp_path / "adapter").mkdir()
    engine.save_model(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(value.shape[0] for name, value in stored.items() if name.endswith("lora_E")) == 24
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (written["init_r"], written["target_r"], written["tinit"], written["tfinal"]) == (4, 2, 2, 6)
    batch = unpacked(micro_batches(rows, engine.step, 0)[0])
    saved = trained_model(engine.step, tmp_path, project.model)
    scores = backend("pytorch").scores(engine.step.task, saved, "cpu")
    assert scores(batch)[batch.positions] == pytest.approx(engine.evaluate(batch).outputs[batch.positions], abs=2e-6)


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_what_is_saved_between_two_times_of_taking_ranks_is_what_was_evaluated(
    project: Project, rows: Features, tmp_path: Path, ema_decay: float
) -> None:
    """Ranks are taken after 9 steps; after 11, they have grown again, and an average still has what they were."""
    engine = begun(project, tmp_path, interval=3, ema_decay=ema_decay)
    walk(engine, rows, 0, 11)
    assert isinstance(engine.course, Course)
    grown = [
        value[~torch.tensor(engine.course.kept[name])]
        for name, value in engine.course.updates.items()
        if name in engine.course.kept
    ]
    assert torch.cat(grown).abs().max() > 1e-3
    batch = unpacked(micro_batches(rows, engine.step, 0)[0])
    before, states = engine.evaluate(batch).outputs[batch.positions], []
    for place in (tmp_path / "before", tmp_path / "after"):
        place.mkdir()
        engine.save_state(place)
        states.append((place / "state.safetensors").read_bytes())
        (place / "adapter").mkdir()
        engine.save_model(place / "adapter")
    assert states[0] == states[1]
    assert np.array_equal(engine.evaluate(batch).outputs[batch.positions], before)
    saved = trained_model(engine.step, tmp_path / "after", project.model)
    scores = backend("pytorch").scores(engine.step.task, saved, "cpu")
    assert scores(batch)[batch.positions] == pytest.approx(before, abs=2e-6)


class Waits(TorchDispatchMode):
    """Counts the numbers that are asked of tensors, each of which waits where the device is another."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("start", "waits"), [(0, 0), (4, 1), (15, 0)])
def test_only_a_step_that_takes_ranks_asks_for_a_number(
    project: Project, rows: Features, tmp_path: Path, start: int, waits: int
) -> None:
    """In between, the threshold below which ranks are taken."""
    engine = begun(project, tmp_path)
    walk(engine, rows, 0, start)
    assert isinstance(engine.course, Course)
    for value in engine.trained.values():
        value.grad = torch.ones_like(value)
    with Waits() as counted:
        engine.course.after_step()
    assert counted.count == waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_that_takes_no_ranks_does_not_wait_for_cuda(project: Project, rows: Features, tmp_path: Path) -> None:
    engine = begun(project, tmp_path, device="cuda")
    assert isinstance(engine.course, Course)
    for end in (1, 16):  # before any are taken, and when no more are
        walk(engine, rows, engine.course.count, end)
        for value in engine.trained.values():
            value.grad = torch.ones_like(value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that not every wait is seen
            torch.cuda.set_sync_debug_mode("error")
        try:
            engine.course.after_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("at", [1, 7, 14, 17])
def test_a_training_resumes_to_the_bit_in_every_phase(
    project: Project, rows: Features, tmp_path: Path, at: int
) -> None:
    first = begun(project, tmp_path, interval=2)
    walk(first, rows, 0, at)
    first.save_state(tmp_path)
    second = begun(project, tmp_path, interval=2)
    second.load_state(tmp_path)
    for engine, place in ((first, tmp_path / "a"), (second, tmp_path / "b")):
        walk(engine, rows, at, STEPS)
        (place / "adapter").mkdir(parents=True)
        engine.save_state(place)
        engine.save_model(place / "adapter")
    for name in ("state.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_penalty_is_the_mean_distance_of_the_factors_from_orthonormal_ones(
    project: Project, rows: Features, tmp_path: Path
) -> None:
    engine = begun(project, tmp_path, orthogonal_weight=0.25)
    values = load_file(tmp_path / "init.safetensors")
    downs = [value.astype(np.float64) for name, value in values.items() if ".lora_A." in name]
    ups = [value.astype(np.float64).T for name, value in values.items() if ".lora_B." in name]
    distances = [np.sqrt(np.square(factor @ factor.T - np.eye(4)).sum()) for factor in (*downs, *ups)]
    batches = micro_batches(rows, engine.step, 0)
    total = float(sum(batch.weights.sum() for batch in batches))
    pending = engine.train_step(batches, denominators={"loss": total}, learning_rates=(0.0,), seed=0)
    assert pending.result().losses["penalty"] == pytest.approx(0.25 * np.mean(distances), rel=1e-5)


def test_mlx_refuses_it_before_it_traces(project: Project, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs the mlx extra")
    with pytest.raises(RunError, match="runs on pytorch, and the plan was placed on mlx") as caught:
        backend("mlx").load_engine(train_step(project), project.model, tmp_path / "i", placed("mlx"))
    assert caught.value.code == "E409"
