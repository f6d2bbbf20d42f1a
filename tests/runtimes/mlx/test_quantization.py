"""QLoRA on MLX: the base is held quantized, and what that means is the same in training, scoring and merging."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
from safetensors.numpy import load_file, save_file
from torch import nn

from compiler.methods import LoRA, QLoRA
from compiler.plan import Train
from compiler.recipe import SGD, AdamW
from compiler.typed import read, to_json
from compiler.weights import read_header
from runtimes import tasks
from runtimes.errors import Interrupted, RunError
from runtimes.loop import train
from runtimes.mlx import backend as mlx
from runtimes.mlx.engine import MlxEngine
from runtimes.mlx.graph import Graph, Node, Ref
from runtimes.mlx.ops.products import quantized_linear
from runtimes.mlx.passes.quantized_linear import OP, linear_weights, quantize_linear
from runtimes.mlx.quantization import RECORD, Quantization, dequantized, load_base, quantization_of
from runtimes.mlx.trace.training import trace_step
from runtimes.mlx.weights import weight_files
from runtimes.protocol import Batch, Engine
from runtimes.pytorch import backend as pytorch
from runtimes.pytorch import models
from runtimes.rows.batches import collate
from runtimes.rows.features import Features
from runtimes.saved import SavedModel, trained_model
from runtimes.schedule import learning_rate
from tests.runtimes.mlx.architectures import ARCHITECTURES
from tests.runtimes.mlx.running import graph_of
from tests.runtimes.tiny import TASK, features, placed, train_step, weigh
from tests.tiny import save_encoder

TARGETS = ("query", "value", "dense")
METHOD = QLoRA(rank=4, alpha=8.0, target_modules=TARGETS, group_size=32)
PLAIN = LoRA(rank=4, alpha=8.0, target_modules=TARGETS)
STEPS = 20
SIZES = [(4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)]


def saved_encoder(folder: Path, **changes: Any) -> Path:
    """The tiny BERT without dropout, with other settings."""
    from transformers import BertConfig, BertModel

    from runtimes.pytorch.quiet import quiet

    save_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    if changes:
        with quiet():
            BertModel(BertConfig(**config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_encoder(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 60)


def step_of(**changes: Any) -> Train:
    """AdamW with a schedule, weight decay and clipping."""
    settings = {"optimizer": AdamW(), "weight_decay": 0.01, "max_grad_norm": 0.5, "learning_rate": 1e-2}
    return train_step(**{**settings, "method": METHOD, **changes})


def method(bits: int, group_size: int) -> QLoRA:
    return read(QLoRA, {**to_json(METHOD), "bits": bits, "group_size": group_size})


def loaded(step: Train, model: Path, folder: Path) -> MlxEngine:
    return mlx.load_engine(step, model, folder / "init.safetensors", placed("mlx"))


def micro_batches(rows: Features, step: Train, number: int) -> tuple[Batch, ...]:
    start = number % 40
    parts = (np.arange(start, start + 5), np.arange(start + 5, start + 9))
    return tuple(collate(rows, part, grid=step.lengths, weigh=weigh(step), fill_to=5) for part in parts)


def do_step(engine: Engine, rows: Features, step: Train, number: int, rate: float) -> tuple[float, float]:
    """The loss, and the norm of the gradient."""
    done = engine.train_step(
        micro_batches(rows, step, number), denominators={"loss": 9.0}, learning_rates=(rate,), seed=number
    ).result()
    return done.losses["loss"], done.grad_norm


def trained(rows: Features, step: Train, model: Path, folder: Path) -> tuple[Path, MlxEngine]:
    """The output of a train step after five steps, and the engine that it was trained on."""
    engine = loaded(step, model, folder)
    for number in range(5):
        do_step(engine, rows, step, number, 1e-2)
    out = folder / "trained"
    (out / "adapter").mkdir(parents=True)
    engine.save_model(out / "adapter")
    return out, engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Five steps with 4 bits in float32: the engine, and the output of its train step."""

    step: Train
    engine: MlxEngine
    out: Path

    @property
    def held(self) -> Quantization:
        assert self.engine.traced.held is not None
        return self.engine.traced.held

    @property
    def adapter(self) -> Path:
        return self.out / "adapter"


@pytest.fixture(scope="module")
def tuned(rows: Features, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    out, engine = trained(rows, step_of(), model, tmp_path_factory.mktemp("tuned"))
    return Tuned(step=step_of(), engine=engine, out=out)


@pytest.fixture(scope="module")
def expected(tuned: Tuned, model: Path, rows: Features) -> np.ndarray:
    """What the trained model answers to the first batch."""
    scores = mlx.scores(TASK, trained_model(tuned.step, tuned.out, model), "cpu")
    return scores(first_batch(rows, tuned.step))


@pytest.fixture(scope="module")
def graph(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    """The training graph before its base is quantized."""
    file = tmp_path_factory.mktemp("graph") / "init.safetensors"
    return trace_step(step_of(), model, mlx.headers(weight_files(model)), file).train


def first_batch(rows: Features, step: Train) -> Batch:
    return micro_batches(rows, step, 0)[0]


def unpacked(weight_OI: np.ndarray, held: Quantization) -> np.ndarray:
    """What a weight is held as, by the formula: the n-th code of a word is its bits from n * bits on."""
    parts = mx.quantize(mx.array(weight_OI), group_size=held.group_size, bits=held.bits, stream=mx.cpu)
    codes, scales, biases = (np.array(part) for part in parts)
    places = np.arange(0, 32, held.bits, dtype=np.uint32)
    codes_OI = ((codes[:, :, None] >> places) & np.uint32(2**held.bits - 1)).reshape(weight_OI.shape)
    scales_OI, biases_OI = (np.repeat(part, held.group_size, axis=1) for part in (scales, biases))
    return np.asarray(codes_OI * scales_OI + biases_OI)


def dequantized_model(model: Path, held: Quantization, out: Path) -> Path:
    """A copy of a model whose linear weights have the values that they are held as."""
    out.mkdir()
    for file in model.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    names = {name.removeprefix("bert.") for name in held.weights}
    weights = load_file(model / "model.safetensors")
    assert names <= set(weights)
    save_file(
        {name: unpacked(value, held).astype(np.float32) if name in names else value for name, value in weights.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    return out


# what is held


@pytest.mark.parametrize(("bits", "group_size"), SIZES)
def test_a_dequantized_weight_is_scale_times_code_plus_bias(bits: int, group_size: int) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 256)).astype(np.float32)
    held = Quantization(bits=bits, group_size=group_size, weights=())
    found = dequantized(weight, held)
    np.testing.assert_allclose(found, unpacked(weight, held), rtol=1e-6, atol=1e-6)
    groups = weight.reshape(6, -1, group_size)
    step = (groups.max(-1) - groups.min(-1)) / (2**bits - 1)  # the distance of two codes
    assert (np.abs(found - weight).reshape(groups.shape) <= 1.01 * step[..., None]).all()


@pytest.mark.parametrize(("bits", "group_size"), SIZES)
def test_the_product_on_a_cpu_is_the_one_that_a_gpu_computes_from_the_codes(bits: int, group_size: int) -> None:
    """Both ways of the lowering, with the gradient by their input."""
    mx.set_default_device(mx.Device(mx.cpu))
    random = np.random.default_rng(0)
    x, weight, bias = (
        mx.array(random.normal(size=shape).astype(np.float32)) for shape in ((3, 5, 256), (6, 256), (6,))
    )
    parts = mx.quantize(weight, bits=bits, group_size=group_size)

    def ours(x: mx.array) -> mx.array:
        return mx.tanh(quantized_linear(x, *parts, bias, bits=bits, group_size=group_size))

    def theirs(x: mx.array) -> mx.array:
        product = mx.quantized_matmul(x, *parts, transpose=True, bits=bits, group_size=group_size)
        return mx.tanh(product + bias)

    for one, other in ((ours, theirs), *((mx.grad(lambda x, f=f: f(x).sum()) for f in (ours, theirs)),)):
        np.testing.assert_allclose(np.array(mx.compile(one)(x)), np.array(other(x)), rtol=1e-4, atol=1e-5)


def test_linear_weights_inside_the_layers_are_held_and_nothing_else(
    tuned: Tuned,
) -> None:
    engine, held = tuned.engine, tuned.held
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    linear = [*names, "intermediate.dense", "output.dense"]
    assert set(held.weights) == {f"bert.encoder.layer.{n}.{name}.weight" for n in (0, 1) for name in linear}
    packed = {name for name, value in engine.frozen.items() if value.dtype == mx.uint32}
    assert len(packed) == len(held.weights)
    assert sum(node.op == OP for node in engine.traced.train.nodes) == len(held.weights)
    assert not any(value.dtype == mx.uint32 for value in engine.trained.values())


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "albert", "modernbert", "deberta", "llama", "qwen3"])
def test_the_linear_weights_of_an_architecture_are_those_of_its_layers(name: str) -> None:
    graph = graph_of(name)
    frozen = {own: replace(parameter, requires_grad=False) for own, parameter in graph.parameters.items()}
    found = linear_weights(replace(graph, parameters=frozen))
    modules = ARCHITECTURES[name].build().model.named_modules()
    expected = {f"{own}.weight" for own, module in modules if isinstance(module, nn.Linear) and ".0." in f".{own}."}
    assert expected
    assert expected <= set(found)
    assert not any(word in own for own in found for word in ("embed", "norm", "head", "classifier"))
    assert linear_weights(graph) == ()  # trained weights are not held


def test_a_weight_that_something_else_reads_is_not_held(graph: Graph) -> None:
    first, second, *others = linear_weights(graph)
    turned = Node(name="%turned", op="aten.t.default", args=(Ref(second),))
    reading = replace(graph, nodes=(*graph.nodes, turned), outputs={**graph.outputs, "weight": Ref(first)})
    assert linear_weights(reading) == tuple(others)


def test_the_pass_changes_only_what_it_is_told(graph: Graph) -> None:
    [first, *_] = linear_weights(graph)
    changed = quantize_linear(graph, {first}, bits=8, group_size=32)
    assert changed.parameters[first].shape == (32, 8)
    assert [node.op for node in changed.nodes].count(OP) == 1
    assert len(changed.parameters) == len(graph.parameters) + 2
    assert quantize_linear(graph, (), bits=4, group_size=32).nodes == graph.nodes


def test_nothing_to_hold_is_an_error_before_weights_are_loaded(model: Path) -> None:
    with pytest.raises(RunError, match="no linear weight of the model can be quantized") as caught:
        mlx.check_model(step_of(method=replace(METHOD, group_size=128)), model)
    assert caught.value.code == "E406"


@pytest.mark.parametrize(("bits", "share", "precision"), [(4, 1 / 3, "fp32"), (8, 0.4, "bf16")])
def test_a_held_base_is_a_fraction_of_float32_and_never_whole_in_it(
    bits: int, share: float, precision: str, tmp_path: Path
) -> None:
    """Four layers of 256: 12.6 MB of linear weights in float32."""
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
    folder = saved_encoder(tmp_path / "model", **sizes)
    step = step_of(method=method(bits, 64), precision=precision)
    files = weight_files(folder)
    traced = trace_step(step, folder, mlx.headers(files), tmp_path / "init.safetensors")
    in_float32 = sum(4 * prod(tensor.shape) for file in files for tensor in read_header(file).values())
    mx.clear_cache()
    mx.reset_peak_memory()
    before, held = mx.get_active_memory(), quantization_of(step.method, traced.train)
    graph, weights = load_base(traced.train, files, traced.names, held)
    mx.eval(weights.parameters)
    assert mx.get_peak_memory() - before < (share + 0.2) * in_float32
    traced = replace(traced, train=graph, held=held)
    found, whole = MlxEngine(step, traced, weights, folder, placed("mlx")).frozen_bytes
    assert abs(whole - in_float32) < 0.01 * in_float32  # the head's frozen copy
    assert found < share * whole


# what is trained


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (8, 64)])
def test_twenty_steps_lose_what_lora_on_the_dequantized_base_loses(
    bits: int, group_size: int, rows: Features, tmp_path: Path
) -> None:
    model = saved_encoder(tmp_path / "model", hidden_size=64, intermediate_size=128)
    step = step_of(method=method(bits, group_size))
    ours = loaded(step, model, tmp_path)
    assert ours.traced.held is not None
    base = dequantized_model(model, ours.traced.held, tmp_path / "dequantized")
    plain = replace(step, method=PLAIN)
    theirs = pytorch.load_engine(plain, base, tmp_path / "init.safetensors", placed())
    rates = [learning_rate(step.schedule, step.learning_rate, number) for number in range(STEPS)]
    figures = np.array(
        [[do_step(engine, rows, step, number, rate) for engine in (ours, theirs)] for number, rate in enumerate(rates)]
    )
    np.testing.assert_allclose(figures[:, 0, 0], figures[:, 1, 0], rtol=1e-4)
    np.testing.assert_allclose(figures[:, 0, 1], figures[:, 1, 1], rtol=2e-3)  # of the gradient, after many roundings
    [batch, _] = micro_batches(rows, step, 3)
    np.testing.assert_allclose(ours.evaluate(batch).outputs, theirs.evaluate(batch).outputs, rtol=1e-3, atol=1e-3)
    assert ours.num_parameters == theirs.num_parameters


def test_each_gradient_is_that_of_lora_on_the_dequantized_base(model: Path, rows: Features, tmp_path: Path) -> None:
    """A step of SGD at a huge rate: what a parameter moves by is the rate times its gradient."""
    rate, moved = 1e4, []
    step = step_of(optimizer=SGD(), weight_decay=0.0, max_grad_norm=None)
    ours = loaded(step, model, tmp_path)
    assert ours.traced.held is not None
    base = dequantized_model(model, ours.traced.held, tmp_path / "dequantized")
    theirs = pytorch.load_engine(replace(step, method=PLAIN), base, tmp_path / "init.safetensors", placed())
    for engine in (ours, theirs):
        for number in range(5):
            do_step(engine, rows, step, number, 0.3)
        before = state(engine, tmp_path)
        do_step(engine, rows, step, 5, rate)
        after = state(engine, tmp_path)
        moved.append({name: (before[name] - after[name]) / rate for name in before if name.startswith("parameters/")})
    assert moved[0].keys() == moved[1].keys()
    for name, expected in moved[1].items():
        floor = 1e-6 + 1e-4 * np.abs(expected).max()
        assert np.abs(moved[0][name] - expected).max() <= floor, name
        assert np.abs(expected).max() > 1e-6, name


def state(engine: Engine, folder: Path) -> Mapping[str, np.ndarray]:
    engine.save_state(folder)
    found: Mapping[str, np.ndarray] = load_file(folder / "state.safetensors")
    return found


def test_bf16_keeps_float32_masters_and_stays_near(model: Path, rows: Features, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        step = step_of(precision=precision)
        engine = loaded(step, model, tmp_path)
        losses[precision] = [do_step(engine, rows, step, number, 1e-2)[0] for number in range(5)]
        assert {value.dtype for value in state(engine, tmp_path).values()} == {np.dtype(np.float32)}
    scales = {value.dtype for name, value in engine.frozen.items() if name.endswith(".scales")}
    assert scales == {mx.bfloat16}
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.03)
    assert losses["bf16"] != losses["fp32"]


def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(model: Path, rows: Features, tmp_path: Path) -> None:
    step = step_of(method=replace(METHOD, dropout=0.2), num_steps=9, evaluate_every=0, checkpoint_every=4)

    def ends(folder: Path, stop_after: int | None) -> bytes:
        folder.mkdir(exist_ok=True)
        engine, steps = loaded(step, model, folder), count(1)
        stop = (lambda: next(steps) == stop_after) if stop_after else (lambda: False)
        reports = train(engine, rows, None, step, folder=folder, micro_batch_size=4, stop=stop)
        assert [type(report).__name__ for report in reports].count("StepReport") > 0
        engine.save_state(folder)
        return (folder / "state.safetensors").read_bytes()

    whole = ends(tmp_path / "whole", None)
    with pytest.raises(Interrupted):
        ends(tmp_path / "cut", 6)
    assert ends(tmp_path / "cut", None) == whole


# what is left


def test_the_merged_model_is_the_trained_one(
    tuned: Tuned, expected: np.ndarray, model: Path, rows: Features, tmp_path: Path
) -> None:
    mlx.merge(tuned.step, model, tuned.adapter, tmp_path / "merged")
    for back in (mlx, pytorch):
        found = back.scores(TASK, SavedModel(tmp_path / "merged"), "cpu")(first_batch(rows, tuned.step))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)


def test_the_merged_model_is_the_trained_one_after_bf16_with_8_bits(
    model: Path, rows: Features, tmp_path: Path
) -> None:
    step = step_of(method=replace(METHOD, bits=8), precision="bf16")
    out, _ = trained(rows, step, model, tmp_path)
    mlx.merge(step, model, out / "adapter", tmp_path / "merged")
    found = pytorch.scores(TASK, SavedModel(tmp_path / "merged"), "cpu")(first_batch(rows, step))
    scores = mlx.scores(TASK, trained_model(step, out, model), "cpu")(first_batch(rows, step))
    np.testing.assert_allclose(found, scores, rtol=1e-5, atol=2e-6)


def test_the_scores_are_those_of_the_engine_that_trained(tuned: Tuned, expected: np.ndarray, rows: Features) -> None:
    own = tuned.engine.evaluate(first_batch(rows, tuned.step)).outputs
    np.testing.assert_allclose(expected, own, rtol=1e-5, atol=1e-6)


def test_merging_into_the_plain_base_is_another_model(
    tuned: Tuned, expected: np.ndarray, model: Path, rows: Features, tmp_path: Path
) -> None:
    """The known failure that the gate's first edge is for."""
    models.merge(model, tuned.adapter, tmp_path / "merged", tasks.module_of(TASK).head(TASK))
    wrong = pytorch.scores(TASK, SavedModel(tmp_path / "merged"), "cpu")(first_batch(rows, tuned.step))
    assert np.abs(wrong - expected).max() > 1e-3


def test_peft_loads_the_adapter_and_on_the_dequantized_base_it_answers_alike(
    tuned: Tuned, expected: np.ndarray, model: Path, rows: Features, tmp_path: Path
) -> None:
    base, batch = dequantized_model(model, tuned.held, tmp_path / "dequantized"), first_batch(rows, tuned.step)
    found = pytorch.scores(TASK, trained_model(tuned.step, tuned.out, base), "cpu")(batch)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    on_the_plain_base = pytorch.scores(TASK, trained_model(tuned.step, tuned.out, model), "cpu")(batch)
    assert 1e-3 < np.abs(on_the_plain_base - expected).max() < 1.0


def test_the_adapter_says_which_base_it_was_trained_on(tuned: Tuned) -> None:
    record = json.loads((tuned.adapter / RECORD).read_text())
    assert (record["bits"], record["group_size"], len(record["weights"])) == (4, 32, 12)
    card = (tuned.adapter / "README.md").read_text()
    assert "Trained beside `tiny` with 12 linear weights quantized by MLX: 4 bits, groups of 32 inputs" in card


@pytest.mark.parametrize("damage", ["gone", "broken", "of another model"])
def test_an_adapter_whose_base_is_not_known_is_refused(damage: str, tuned: Tuned, model: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned.adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / RECORD
    match damage:
        case "gone":
            file.unlink()
        case "broken":
            file.write_text("{")
        case _:
            file.write_text(file.read_text().replace("layer.1.", "layer.7."))
    with pytest.raises(RunError) as caught:
        mlx.scores(TASK, trained_model(tuned.step, tmp_path, model), "cpu")
    assert caught.value.code == "E502"


def test_pytorch_refuses_it_before_it_looks_at_the_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match='"qlora" runs on mlx, and the plan was placed on pytorch') as caught:
        pytorch.load_engine(step_of(), tmp_path / "nothing", tmp_path / "init.safetensors", placed())
    assert (caught.value.code, caught.value.hint) == ("E409", "run it with --runtime mlx")
