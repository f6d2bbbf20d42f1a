"""Options of training on the engines: closed forms, equal steps on PyTorch and MLX, the same bits after a resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from safetensors.numpy import load_file

from compiler.methods import AdaLoRA, Full, LoRA, Method, Prompt
from compiler.placement import Runtime
from compiler.plan import Train
from compiler.recipe import SGD, AdamW
from runtimes.backends import backend
from runtimes.protocol import Engine
from runtimes.rows.features import Features
from tests.conformance.engines import do_step, micro_batches
from tests.runtimes.test_engines import save_model
from tests.runtimes.tiny import features, placed, train_step

RATE = 1e-2
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "rates": {"layer_decay": 0.5, "head_lr_multiplier": 3.0},
    "excludes": {"weight_decay": 0.5, "decay_excludes": ("biases", "embeddings")},
    "unfreezing": {"unfreeze_every": 2},
    "average": {"ema_decay": 0.8},
}
ALL: Mapping[str, Any] = {key: value for options in OPTIONS.values() for key, value in options.items()}
METHODS: Mapping[str, Method] = {
    "full": Full(),
    "lora": LoRA(rank=2, alpha=4.0, target_modules=("query", "value")),
    "prompt": Prompt(num_virtual_tokens=4),
}
# All updates lose ranks from the first step on, so that none is unfrozen later.
ADALORA: Mapping[str, Any] = {
    **ALL,
    "unfreeze_every": 0,
    "num_steps": 8,
    "method": AdaLoRA(initial_rank=4, target_rank=2, alpha=8.0, target_modules=("query", "value")),
}
# With all of the weights each option alone; beside frozen ones all of them at once.
CASES = [
    *(("full", options) for options in [*OPTIONS.values(), ALL, {**ALL, "optimizer": SGD(momentum=0.9)}]),
    *((method, ALL) for method in METHODS if method != "full"),
]
State = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("exact") / "model", 0.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


@pytest.fixture(scope="module")
def graphs_of(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """From a method to an engine of MLX whose graphs serve all steps that differ in their updates alone."""
    pytest.importorskip("mlx.core", reason="needs the mlx extra")

    @cache
    def traced(method: str) -> Any:
        init = tmp_path_factory.mktemp("graphs") / "init.safetensors"
        return backend("mlx").load_engine(step_of(method=METHODS[method]), model, init, placed("mlx"))

    return traced


@pytest.fixture(scope="module")
def graphs(graphs_of: Callable[[str], Any]) -> Any:
    """The same with all of the weights."""
    return graphs_of("full")


def step_of(**changes: Any) -> Train:
    settings = {"optimizer": AdamW(), "weight_decay": 0.01, "max_grad_norm": 0.5, "learning_rate": RATE}
    return train_step(**{**settings, **changes})


def like(graphs: Any, step: Train) -> Engine:
    from runtimes.mlx.engine import MlxEngine
    from runtimes.mlx.weights import load_weights, weight_files

    weights = load_weights(graphs.traced.train, weight_files(graphs.folder), graphs.traced.names)
    return MlxEngine(step, graphs.traced, weights, graphs.folder, graphs.placement)


def load(step: Train, model: Path, folder: Path, name: Runtime = "pytorch") -> Engine:
    return backend(name).load_engine(step, model, folder / "init.safetensors", placed(name))


def state_of(engine: Engine, folder: Path) -> State:
    engine.save_state(folder)
    return dict(load_file(folder / "state.safetensors"))


def part(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def steps(engine: Engine, rows: Features, step: Train, numbers: range) -> list[tuple[float, float]]:
    return [do_step(engine, rows, step, number, RATE) for number in numbers]


# --- both engines


@pytest.mark.parametrize(("method", "options"), CASES, ids=str)
def test_mlx_updates_as_pytorch_does(
    method: str, options: Mapping[str, Any], graphs_of: Any, model: Path, rows: Features, tmp_path: Path
) -> None:
    bare = step_of(method=METHODS[method])
    step = replace(bare, **options)
    plain, torchs, mlx = load(bare, model, tmp_path), load(step, model, tmp_path), like(graphs_of(method), step)
    expected, found = (steps(engine, rows, step, range(8)) for engine in (torchs, mlx))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    theirs, ours = state_of(torchs, tmp_path), state_of(mlx, tmp_path)
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        if "key.bias" in name:
            continue  # no gradient: the shares of attention don't depend on it, and Adam makes steps of rounding
        # Eight steps of Adam, which divides small gradients by their size.
        np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=2e-4, err_msg=name)
    steps(plain, rows, step, range(8))
    batch = micro_batches(rows, step, 9)[0]
    assert np.abs(plain.evaluate(batch).losses - torchs.evaluate(batch).losses).max() > 1e-3, "the option does nothing"
    np.testing.assert_allclose(mlx.evaluate(batch).losses, torchs.evaluate(batch).losses, rtol=1e-3)


@pytest.mark.parametrize("name", ["pytorch", "mlx"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_resumed_training_has_the_same_bits(
    name: Runtime, method: str, at: int, model: Path, rows: Features, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    step = step_of(method=METHODS[method], **ALL)
    make = partial(load, step, model, tmp_path)
    if name == "mlx":
        make = partial(like, request.getfixturevalue("graphs_of")(method), step)
    resume_to_the_bit(make, rows, step, at, tmp_path)


def resume_to_the_bit(make: Callable[[], Engine], rows: Features, step: Train, at: int, tmp_path: Path) -> None:
    """Eight steps, and as many with a pause after some, leave the same state."""
    whole, before, after = (make() for _ in range(3))
    steps(whole, rows, step, range(8))
    expected = state_of(whole, tmp_path)
    steps(before, rows, step, range(at))
    before.save_state(tmp_path)
    after.load_state(tmp_path)
    steps(after, rows, step, range(at, 8))
    found = state_of(after, tmp_path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert np.array_equal(found[key], value), key
    whole.load_state(tmp_path)  # back to it, as the loop does for the best checkpoint
    assert all(np.array_equal(value, found[key]) for key, value in state_of(whole, tmp_path).items())


def test_adalora_resumes_to_the_bit_beside_the_options_that_it_has(model: Path, rows: Features, tmp_path: Path) -> None:
    step = step_of(**ADALORA)
    resume_to_the_bit(partial(load, step, model, tmp_path), rows, step, 3, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("method", [*METHODS, "adalora"])
def test_a_training_on_cuda_resumes(method: str, model: Path, rows: Features, tmp_path: Path) -> None:
    """What is loaded is what was saved, to the bit; the steps after it are equal but for the order of sums."""
    step = step_of(**(ADALORA if method == "adalora" else {**ALL, "method": METHODS[method]}))
    init, placement = tmp_path / "init.safetensors", placed("pytorch", "cuda")
    whole, after = (backend("pytorch").load_engine(step, model, init, placement) for _ in range(2))
    steps(whole, rows, step, range(3))
    saved = state_of(whole, tmp_path)
    after.load_state(tmp_path)
    loaded = state_of(after, tmp_path)
    assert saved.keys() == loaded.keys()
    assert all(np.array_equal(value, loaded[name]) for name, value in saved.items())
    expected = steps(whole, rows, step, range(3, 8))
    np.testing.assert_allclose(steps(after, rows, step, range(3, 8)), expected, rtol=1e-4)


def test_a_checkpoint_of_a_part_of_the_layers_moves_between_the_engines(
    graphs: Any, model: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(**ALL)
    whole, part_way, mlx = load(step, model, tmp_path), load(step, model, tmp_path), like(graphs, step)
    expected = steps(whole, rows, step, range(8))
    steps(part_way, rows, step, range(3))
    part_way.save_state(tmp_path)
    mlx.load_state(tmp_path)
    np.testing.assert_allclose(steps(mlx, rows, step, range(3, 6)), expected[3:6], rtol=1e-4)
    mlx.save_state(tmp_path)
    part_way.load_state(tmp_path)
    np.testing.assert_allclose(steps(part_way, rows, step, range(6, 8)), expected[6:], rtol=1e-4)


# --- closed forms, on each engine


@pytest.fixture(params=["pytorch", "mlx"])
def made(request: pytest.FixtureRequest, graphs: Any, model: Path, tmp_path: Path) -> Any:
    """From a step to an engine."""
    return lambda step: like(graphs, step) if request.param == "mlx" else load(step, model, tmp_path)


def test_each_layer_moves_at_its_own_rate(made: Any, rows: Features, tmp_path: Path) -> None:
    plain = {"optimizer": SGD(), "weight_decay": 0.0, "max_grad_norm": None}
    moved = []
    for options in ({}, OPTIONS["rates"]):
        engine = made(step_of(**plain, **options))
        before = part(state_of(engine, tmp_path), "parameters/")
        steps(engine, rows, engine.step, range(1))
        after = part(state_of(engine, tmp_path), "parameters/")
        moved.append({name: after[name].astype(np.float64) - value for name, value in before.items()})
    rates = {"classifier": 3.0, "pooler": 1.0, "layer.1.": 1.0, "layer.0.": 0.5, "embeddings": 0.25}
    for name, value in moved[0].items():
        [rate] = [rate for place, rate in rates.items() if place in name]
        # A parameter of about 1 has 24 bits, of which the move by a rate of 0.01 leaves about 10 to compare.
        np.testing.assert_allclose(moved[1][name], rate * value, rtol=1e-2, atol=2e-7, err_msg=name)
    assert all(np.abs(value).max() > 1e-5 for name, value in moved[0].items() if name.endswith("weight"))


def test_what_is_frozen_does_not_move_has_no_moments_and_is_not_in_the_norm(
    made: Any, rows: Features, tmp_path: Path
) -> None:
    step = step_of(unfreeze_every=2, max_grad_norm=None)
    engine, whole = made(step), made(replace(step, unfreeze_every=0))
    before = state_of(engine, tmp_path)
    [(_, norm)], [(_, all_of_it)] = (steps(each, rows, step, range(1)) for each in (engine, whole))
    gradients = part(state_of(whole, tmp_path), "optimizer/")  # the first moment is a tenth of the gradient
    head = [10 * gradients[f"{name}/exp_avg"] for name in head_of(before)]
    assert norm == pytest.approx(np.sqrt(sum((value**2).sum() for value in head)), rel=1e-5)
    assert norm < 0.9 * all_of_it
    steps(engine, rows, step, range(1, 2))
    after = state_of(engine, tmp_path)
    for name, value in part(before, "parameters/").items():
        assert np.array_equal(after[f"parameters/{name}"], value) is (name not in head_of(before)), name
    assert {name.split("/")[1] for name in after if name.startswith("optimizer/")} == set(head_of(before))
    steps(engine, rows, step, range(2, 3))
    later = state_of(engine, tmp_path)
    opened = {name.split("/")[1] for name in later if name.startswith("optimizer/")} - set(head_of(before))
    assert opened == {name for name in part(before, "parameters/") if ".layer.1." in name or "pooler" in name}
    assert {float(later[f"optimizer/{name}/step"]) for name in opened} == {1.0}


def head_of(state: State) -> list[str]:
    return [name for name in part(state, "parameters/") if "classifier" in name]


def test_what_is_excluded_keeps_its_size_where_nothing_pulls(made: Any, rows: Features, tmp_path: Path) -> None:
    """Rows of weight zero have no gradient, so that decay alone moves: by 1 - rate * decay."""
    engine = made(step_of(weight_decay=0.5, decay_excludes=("norms", "embeddings")))
    before = part(state_of(engine, tmp_path), "parameters/")
    batches = [replace(batch, weights=0 * batch.weights) for batch in micro_batches(rows, engine.step, 0)]
    engine.train_step(batches, denominators={"loss": 1.0}, learning_rates=(RATE,), seed=0).result()
    after = part(state_of(engine, tmp_path), "parameters/")
    for name, value in before.items():
        kept = "LayerNorm" in name or "embeddings" in name
        np.testing.assert_allclose(after[name], value * (1.0 if kept else 1 - RATE * 0.5), rtol=1e-6, err_msg=name)


def test_the_average_follows_the_weights_and_answers_and_is_saved(
    made: Any, model: Path, rows: Features, tmp_path: Path
) -> None:
    engine, plain = made(step_of(ema_decay=0.8)), made(step_of())
    expected = part(state_of(engine, tmp_path), "parameters/")
    for number in range(4):
        steps(engine, rows, engine.step, range(number, number + 1))
        now = part(state_of(engine, tmp_path), "parameters/")
        expected = {name: 0.8 * value + 0.2 * now[name] for name, value in expected.items()}
    state = state_of(engine, tmp_path)
    for name, value in expected.items():
        np.testing.assert_allclose(state[f"average/{name}"], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        steps(engine, rows, engine.step, range(4, 5)), steps(plain, rows, plain.step, range(5))[4:], rtol=1e-6
    )  # the average is beside the training
    from safetensors.numpy import save_file

    averaged = {f"parameters/{name}": value for name, value in part(state_of(engine, tmp_path), "average/").items()}
    save_file({**state_of(plain, tmp_path), **averaged}, tmp_path / "state.safetensors")
    plain.load_state(tmp_path)
    batch = micro_batches(rows, engine.step, 0)[0]
    np.testing.assert_allclose(engine.evaluate(batch).outputs, plain.evaluate(batch).outputs, rtol=1e-5, atol=1e-6)
    (tmp_path / "saved").mkdir()
    engine.save_model(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    for name, value in averaged.items():
        assert np.array_equal(saved[name.removeprefix("parameters/")], value), name


def test_an_adapter_has_rates_by_layer_and_is_unfrozen_from_the_top(
    model: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(method=LoRA(rank=2, alpha=4.0, target_modules=("query",)), unfreeze_every=1, layer_decay=0.5)
    engine = load(step, model, tmp_path)
    before = part(state_of(engine, tmp_path), "parameters/")
    for number, opened in enumerate(("classifier", "layer.1.", "layer.0.")):
        steps(engine, rows, step, range(number, number + 1))
        after = part(state_of(engine, tmp_path), "parameters/")
        moved = {name for name, value in after.items() if not np.array_equal(value, before[name])}
        assert any(opened in name for name in moved)
        before = after
        if number == 0:
            assert all("layer." not in name for name in moved)
