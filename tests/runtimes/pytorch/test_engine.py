from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the torch extra")

import torch
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

from compiler.methods.freeze import Freeze
from compiler.methods.full import Full
from compiler.methods.head import Head
from compiler.methods.lora import LoRA
from compiler.plan import Train
from compiler.recipe import SGD, Adam, AdamW
from runtimes.errors import RunError
from runtimes.loop import train
from runtimes.protocol import Batch, OutOfMemory
from runtimes.pytorch.engine import TorchEngine, load
from runtimes.pytorch.models import merge, wrapped_model
from runtimes.pytorch.quiet import quiet
from runtimes.reports import EvaluationReport, StepReport
from runtimes.rows.batches import collate, micro_batches
from runtimes.rows.features import Features
from runtimes.tasks import text_classification
from tests.runtimes.tiny import LABELS, TASK, WORDS, features, selection, train_step, weigh

SIZES: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 32, "pad_token_id": 0}
BERT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    **SIZES,
}
WEIGHTS = (1.0, 0.25, 3.0)
TARGETS = ("attention.self.query", "attention.self.value", "intermediate.dense", "output.dense")
LORA = LoRA(rank=4, alpha=8.0, target_modules=TARGETS)
METHODS = (Full(), Head(), Freeze(layers=2), LORA)
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tensors are so small here that threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Features:
    return features(tmp_path_factory.mktemp("rows"), 43)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT without a head and without dropout."""
    return saved(BertModel(BertConfig(**BERT, **NO_DROPOUT)), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with dropout."""
    return saved(BertModel(BertConfig(**BERT)), tmp_path_factory.mktemp("dropping"))


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """The folder of a model whose weights are large enough for its answers to depend on its inputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    with quiet():
        model.save_pretrained(folder)
    return folder


def engine(step: Train, model: Path, folder: Path) -> TorchEngine:
    folder.mkdir(exist_ok=True)
    return load(step, model, folder / "init.safetensors")


def whole(found: Features, step: Train, numbers: Sequence[int], size: int = 0, fill_to: int = 0) -> list[Batch]:
    """Rows as micro-batches of a size."""
    parts = micro_batches(np.asarray(numbers), found.lengths, size or len(numbers))
    return [collate(found, part, grid=step.lengths, weigh=weigh(step), fill_to=fill_to) for part in parts]


def do_step(
    subject: TorchEngine, batches: list[Batch], rate: float = 0.1, seed: int = 0, number: int = 0
) -> tuple[float, float]:
    denominator = float(sum(batch.weights.sum() for batch in batches))
    pending = subject.train_step(
        batches, denominators={"loss": denominator}, learning_rates=(rate,), seed=seed, number=number
    )
    result = pending.result()
    return result.losses["loss"], result.grad_norm


def values(subject: TorchEngine) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in subject.model.named_parameters()}


# --- the loss and its gradient


def test_uniform_logits_cost_the_logarithm_of_the_number_of_labels(encoder: Path, rows: Features, tmp_path) -> None:
    subject = engine(train_step(class_weights=WEIGHTS, label_smoothing=0.1), encoder, tmp_path)
    with torch.no_grad():
        for parameter in subject.inner.get_submodule("classifier").parameters():
            parameter.zero_()
    step = subject.step
    [batch] = whole(rows, step, range(20))
    assert subject.evaluate(batch).losses == pytest.approx(math.log(3), rel=1e-6)
    assert do_step(subject, [batch])[0] == pytest.approx(math.log(3), rel=1e-6)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.type)
def test_micro_batches_give_the_loss_and_weights_of_the_whole(
    encoder: Path, rows: Features, tmp_path: Path, method, size: int
) -> None:
    step = train_step(method=method, class_weights=WEIGHTS, label_smoothing=0.1, max_grad_norm=0.5)
    first, second = (engine(step, encoder, tmp_path) for _ in range(2))
    for start in (0, 20, 40):  # the last window is cut to three rows
        numbers = range(start, min(start + 20, 43))
        one = do_step(first, whole(rows, step, numbers))
        # Filling rows, which fixed shapes need, weigh nothing.
        many = do_step(second, whole(rows, step, numbers, size, fill_to=size))
        # Float32 sums in another order: about 1e-6 of the largest term.
        assert many == pytest.approx(one, rel=2e-5)
    for name, value in values(first).items():
        torch.testing.assert_close(values(second)[name], value, rtol=1e-4, atol=2e-6, msg=name)


def test_one_step_of_sgd_goes_down_torchs_own_gradient(encoder: Path, rows: Features, tmp_path: Path) -> None:
    step = train_step()
    subject = engine(step, encoder, tmp_path)
    [batch] = whole(rows, step, range(20))
    subject.inner.eval()
    logits = subject.inner(**{name: torch.as_tensor(array) for name, array in batch.inputs.items()}).logits
    expected = cross_entropy(logits, torch.as_tensor(batch.targets))
    before = values(subject)
    expected.backward()
    gradients = {name: value.grad.clone() for name, value in subject.model.named_parameters() if value.grad is not None}
    subject.optimizer.zero_grad()
    loss, norm = do_step(subject, whole(rows, step, range(20), 4), rate=1.0)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert norm == pytest.approx(math.sqrt(sum(float((value**2).sum()) for value in gradients.values())), rel=1e-5)
    for name, value in values(subject).items():
        torch.testing.assert_close(before[name] - value, gradients[name], rtol=1e-4, atol=2e-6, msg=name)


def test_class_weights_make_rows_count_as_often_as_they_weigh(encoder: Path, rows: Features, tmp_path: Path) -> None:
    weighted = train_step(class_weights=(2.0, 1.0, 1.0))
    once = list(range(12))
    twice = sorted([*once, *(row for row in once if rows.targets.values[row] == 0)])
    first, second = engine(weighted, encoder, tmp_path), engine(train_step(), encoder, tmp_path)
    one = do_step(first, whole(rows, weighted, once))
    two = do_step(second, whole(rows, train_step(), twice))
    assert one == pytest.approx(two, rel=1e-5)
    for name, value in values(first).items():
        torch.testing.assert_close(values(second)[name], value, rtol=1e-4, atol=2e-6, msg=name)


def test_the_gradients_norm_is_reported_before_clipping_and_limits_the_step(encoder: Path, rows, tmp_path) -> None:
    step = train_step(max_grad_norm=0.01)
    subject = engine(step, encoder, tmp_path)
    before = values(subject)
    _, norm = do_step(subject, whole(rows, step, range(20)), rate=1.0)
    moved = math.sqrt(sum(float(((before[name] - value) ** 2).sum()) for name, value in values(subject).items()))
    assert norm > 0.1
    # clip_grad_norm_ adds 1e-6 to the norm; the differences are of float32 weights near 0.15.
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_an_evaluation_is_plain_cross_entropy_and_changes_nothing(dropping: Path, rows: Features, tmp_path) -> None:
    step = train_step(class_weights=WEIGHTS, label_smoothing=0.2)
    subject = engine(step, dropping, tmp_path)
    [batch] = whole(rows, step, range(20))
    before = values(subject)
    first, second = subject.evaluate(batch), subject.evaluate(batch)
    assert np.array_equal(first.outputs, second.outputs)
    expected = cross_entropy(torch.as_tensor(first.outputs), torch.as_tensor(batch.targets), reduction="none")
    np.testing.assert_allclose(first.losses, expected.numpy(), rtol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in values(subject).items())


def test_padding_changes_no_answer(encoder: Path, rows: Features, tmp_path: Path) -> None:
    subject = engine(train_step(), encoder, tmp_path)
    together = subject.evaluate(whole(rows, subject.step, range(20))[0])
    order = np.argsort(-rows.lengths[:20], kind="stable")
    alone = [subject.evaluate(whole(rows, subject.step, [int(row)])[0]).outputs[0] for row in order]
    np.testing.assert_allclose(together.outputs, np.stack(alone), rtol=1e-4, atol=1e-5)


# --- what is trained


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        (Full(), ("",)),
        (Head(), ("classifier.",)),
        (Freeze(layers=2), ("bert.encoder.layer.2.", "bert.pooler.", "classifier.")),
        (
            Freeze(layers=2, embeddings=False),
            ("bert.embeddings.", "bert.encoder.layer.2.", "bert.pooler.", "classifier."),
        ),
    ],
    ids=["full", "head", "freeze", "freeze-without-embeddings"],
)
def test_only_what_the_method_trains_moves(dropping: Path, rows: Features, tmp_path, method, trained) -> None:
    step = train_step(method=method, optimizer=AdamW(), weight_decay=0.1)
    subject = engine(step, dropping, tmp_path)
    before = values(subject)
    for seed in range(3):
        do_step(subject, whole(rows, step, range(20)), seed=seed)
    moved = {name for name, value in values(subject).items() if not torch.equal(before[name], value)}
    assert moved == {name for name in before if name.startswith(trained)}
    assert subject.num_parameters == (
        sum(before[name].numel() for name in moved),
        sum(value.numel() for value in before.values()),
    )


def test_lora_moves_updates_and_head_only(dropping: Path, rows: Features, tmp_path: Path) -> None:
    step = train_step(method=LORA)
    subject = engine(step, dropping, tmp_path)
    before = values(subject)
    for seed in range(3):
        do_step(subject, whole(rows, step, range(20)), seed=seed)
    moved = {name for name, value in values(subject).items() if not torch.equal(before[name], value)}
    assert all(".lora_" in name or ".classifier.modules_to_save." in name for name in moved)
    assert len(moved) == 2 * 4 * 3 + 2 + 2 * 3, "four patterns; output.dense is in the attention too"


def test_frozen_parts_compute_without_dropout(dropping: Path, rows: Features, tmp_path: Path) -> None:
    step = train_step(method=Head(), selection=None)
    subject = engine(step, dropping, tmp_path)
    do_step(subject, whole(rows, step, range(8)))
    training = {name for name, module in subject.inner.named_modules() if module.training}
    assert training == {"", "dropout", "classifier"}


def test_biases_and_norms_do_not_decay(encoder: Path, rows: Features, tmp_path: Path) -> None:
    step = train_step(optimizer=AdamW(), weight_decay=0.5, class_weights=(0.0, 0.0, 0.0))
    subject = engine(step, encoder, tmp_path)
    before = values(subject)
    subject.train_step(whole(rows, step, range(8)), denominators={"loss": 1.0}, learning_rates=(0.1,), seed=0).result()
    for name, value in values(subject).items():
        factor = 1 - 0.1 * 0.5 if value.ndim > 1 else 1.0
        torch.testing.assert_close(value, before[name] * factor, rtol=1e-6, atol=0, msg=name)


# --- new parameters


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.type)
def test_new_parameters_are_the_same_on_every_load(encoder: Path, tmp_path: Path, method) -> None:
    step = train_step(method=method)
    first = engine(step, encoder, tmp_path)
    torch.manual_seed(99)
    second = engine(step, encoder, tmp_path)
    third = engine(step, encoder, tmp_path / "elsewhere")
    for name, value in values(first).items():
        assert torch.equal(values(second)[name], value), name
        assert torch.equal(values(third)[name], value), name
    other = engine(replace(step, seed=1), encoder, tmp_path / "other")
    assert any(not torch.equal(values(other)[name], value) for name, value in values(first).items())


def test_the_head_starts_the_same_under_every_method(encoder: Path, tmp_path: Path) -> None:
    full, lora = (
        load_file(engine_file(train_step(method=method), encoder, tmp_path / method.type)) for method in (Full(), LORA)
    )
    assert set(full) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(full["classifier.weight"], lora["classifier.weight"])


def engine_file(step: Train, model: Path, folder: Path) -> Path:
    engine(step, model, folder)
    return folder / "init.safetensors"


def test_an_untrained_update_changes_no_answer(encoder: Path, rows: Features, tmp_path: Path) -> None:
    full, lora = (engine(train_step(method=method), encoder, tmp_path / method.type) for method in (Full(), LORA))
    [batch] = whole(rows, full.step, range(20))
    np.testing.assert_allclose(lora.evaluate(batch).outputs, full.evaluate(batch).outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", [True, False])
def test_a_models_own_head_is_kept_only_when_the_plan_says_so(tmp_path: Path, keep: bool) -> None:
    folder = saved(BertForSequenceClassification(BertConfig(**{**BERT, "num_labels": 3})), tmp_path / "tuned")
    subject = engine(train_step(keep_head=keep), folder, tmp_path)
    own = load_file(folder / "model.safetensors")["classifier.weight"]
    assert torch.equal(subject.inner.get_parameter("classifier.weight").detach(), own) is keep
    assert torch.equal(
        subject.inner.get_parameter("bert.pooler.dense.weight").detach(),
        load_file(folder / "model.safetensors")["bert.pooler.dense.weight"],
    ), "a trained pooler is kept"


def test_a_head_for_other_labels_is_replaced(tmp_path: Path) -> None:
    folder = saved(BertForSequenceClassification(BertConfig(**{**BERT, "num_labels": 5})), tmp_path / "tuned")
    subject = engine(train_step(), folder, tmp_path)
    assert subject.inner.get_parameter("classifier.weight").shape == (3, 32)
    assert subject.inner.config.id2label == dict(enumerate(LABELS))


ARCHITECTURES = {
    "distilbert": (
        DistilBertModel(DistilBertConfig(**SIZES, dim=32, n_layers=3, n_heads=4, hidden_dim=48)),
        {"pre_classifier.weight", "pre_classifier.bias", "classifier.weight", "classifier.bias"},
        ("attention.q_lin", "ffn.lin1"),
    ),
    "roberta": (
        RobertaModel(RobertaConfig(**{**BERT, "max_position_embeddings": 40}), add_pooling_layer=False),
        {f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")},
        ("query", "dense"),  # dense would match inside the head as well
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["full", "head", "freeze", "lora"])
def test_other_architectures_train_with_every_method(rows: Features, tmp_path: Path, name: str, kind: str) -> None:
    model, head, targets = ARCHITECTURES[name]
    folder = saved(model, tmp_path / "model")
    method = {"full": Full(), "head": Head(), "freeze": Freeze(layers=2)}.get(
        kind, LoRA(rank=4, alpha=8.0, target_modules=targets)
    )
    step = train_step(method=method, optimizer=AdamW())
    subject = engine(step, folder, tmp_path)
    new = set(load_file(tmp_path / "init.safetensors"))
    assert {parameter for parameter in new if "lora_" not in parameter} == head
    losses = [do_step(subject, whole(rows, step, range(20)), rate=0.01, seed=seed)[0] for seed in range(15)]
    assert losses[-1] < losses[0]
    if kind == "lora":
        inside = [found for found, module in subject.model.named_modules() if isinstance(module, LoraLinear)]
        assert inside
        assert not any("classifier" in found for found in inside)


# --- files


@pytest.mark.parametrize("method", [Full(), Head(), Freeze(layers=1)], ids=lambda method: method.type)
def test_a_saved_model_answers_as_the_engine(encoder: Path, rows: Features, tmp_path: Path, method) -> None:
    step = train_step(method=method)
    subject = engine(step, encoder, tmp_path)
    do_step(subject, whole(rows, step, range(20)))
    subject.save_model(tmp_path / "model")
    [batch] = whole(rows, step, range(20))
    assert np.array_equal(answers(tmp_path / "model", batch), subject.evaluate(batch).outputs)


def answers(folder: Path, batch: Batch) -> np.ndarray:
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.problem_type == "single_label_classification"
    with torch.inference_mode():
        inputs = {name: torch.as_tensor(array) for name, array in batch.inputs.items()}
        return np.asarray(model(**inputs).logits.numpy())


def trained_lora(encoder: Path, rows: Features, folder: Path, **changes: Any) -> TorchEngine:
    step = train_step(method=replace(LORA, **changes))
    subject = engine(step, encoder, folder)
    for seed in range(4):
        do_step(subject, whole(rows, step, range(20)), rate=1.0, seed=seed)
    subject.save_model(folder / "adapter")
    return subject


def test_a_merged_model_keeps_the_head_and_answers_as_base_and_adapter(encoder: Path, rows, tmp_path) -> None:
    subject = trained_lora(encoder, rows, tmp_path)
    merge(encoder, tmp_path / "adapter", tmp_path / "model", text_classification.head(TASK))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    trained = dict(subject.model.named_parameters())
    head = "base_model.model.classifier.modules_to_save.default.weight"
    assert torch.equal(weights["classifier.weight"], trained[head])
    assert all(value.dtype == torch.float32 for value in weights.values())
    assert not any("lora" in name for name in weights)
    [batch] = whole(rows, subject.step, range(20))
    own = subject.evaluate(batch).outputs
    untrained = engine(train_step(method=LORA), encoder, tmp_path / "untrained").evaluate(batch).outputs
    assert np.abs(own - untrained).max() > 0.1, "the updates matter"
    np.testing.assert_allclose(answers(tmp_path / "model", batch), own, rtol=1e-4, atol=1e-5)


def test_an_adapter_without_the_head_is_not_merged(encoder: Path, rows: Features, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    trained_lora(encoder, rows, tmp_path)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "classifier" not in name}, file)
    with pytest.raises(RunError, match=r"neither the base model nor the adapter has classifier\.bias"):
        merge(encoder, tmp_path / "adapter", tmp_path / "model", text_classification.head(TASK))


def test_an_adapter_names_its_base_by_id_and_its_head(encoder: Path, rows: Features, tmp_path: Path) -> None:
    import json

    trained_lora(encoder, rows, tmp_path)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "tiny"
    assert written["modules_to_save"] == ["classifier"]
    assert written["target_modules"] == sorted(TARGETS), "PEFT writes a set, in another order in every process"
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_fused_update_computes_as_peft_does(encoder: Path, rows: Features, tmp_path: Path, dropout) -> None:
    step = train_step(method=replace(LORA, dropout=dropout))
    fused, plain = (engine(step, encoder, tmp_path) for _ in range(2))
    for module in plain.model.modules():
        if isinstance(module, LoraLinear):
            module.__class__ = LoraLinear
    for seed in range(3):
        one, two = (do_step(subject, whole(rows, step, range(20)), seed=seed) for subject in (fused, plain))
        assert one == pytest.approx(two, rel=1e-5)
    for name, value in values(plain).items():
        torch.testing.assert_close(values(fused)[name], value, rtol=1e-4, atol=2e-6, msg=name)


# --- state, resume, memory

OPTIMIZERS = (AdamW(), Adam(), SGD(), SGD(momentum=0.9))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("method", [Full(), LORA], ids=lambda method: method.type)
def test_the_state_comes_back_whole(dropping: Path, rows: Features, tmp_path: Path, optimizer, method) -> None:
    step = train_step(method=method, optimizer=optimizer, weight_decay=0.01)
    first = engine(step, dropping, tmp_path)
    do_step(first, whole(rows, step, range(20)), seed=1)
    first.save_state(tmp_path)
    second = engine(step, dropping, tmp_path)
    second.load_state(tmp_path)
    for seed in (2, 3):
        assert do_step(first, whole(rows, step, range(20)), seed=seed) == do_step(
            second, whole(rows, step, range(20)), seed=seed
        )
    for name, value in values(first).items():
        assert torch.equal(values(second)[name], value), name


def test_state_has_torch_names(encoder: Path, tmp_path: Path) -> None:
    subject = engine(train_step(method=Head(), optimizer=AdamW()), encoder, tmp_path)
    subject.save_state(tmp_path)
    parts = ("", "/exp_avg", "/exp_avg_sq", "/step")
    expected = {f"optimizer/classifier.{kind}{part}" for kind in ("weight", "bias") for part in parts[1:]}
    expected |= {f"parameters/classifier.{kind}" for kind in ("weight", "bias")}
    assert set(load_file(tmp_path / "state.safetensors")) == expected


@pytest.mark.parametrize("method", [Full(), LORA, replace(LORA, dropout=0.2)], ids=["full", "lora", "lora-dropout"])
def test_a_resumed_run_ends_in_the_same_bits(dropping: Path, rows: Features, tmp_path: Path, method) -> None:
    step = train_step(
        method=method,
        optimizer=AdamW(),
        learning_rate=1e-3,
        num_steps=10,
        checkpoint_every=3,
        max_grad_norm=1.0,
        selection=selection(metric="loss", greater_is_better=False),
    )

    def run(folder: Path, kills: Sequence[int]) -> dict[str, torch.Tensor]:
        for kill in (*kills, None):
            subject = engine(step, dropping, folder)
            reports = train(subject, rows, rows, step, folder=folder, micro_batch_size=5)
            list(itertools.islice(reports, kill))
        return values(subject)

    expected, found = run(tmp_path / "whole", ()), run(tmp_path / "killed", (2, 9, 12))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_dropout_follows_the_seed_of_the_step(dropping: Path, rows: Features, tmp_path: Path) -> None:
    step = train_step(learning_rate=0.0)
    subject = engine(step, dropping, tmp_path)
    losses = [do_step(subject, whole(rows, step, range(20)), rate=0.0, seed=seed)[0] for seed in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]


def test_training_learns(dropping: Path, rows: Features, tmp_path: Path) -> None:
    step = train_step(
        optimizer=AdamW(), learning_rate=3e-3, num_steps=120, max_grad_norm=1.0, selection=selection(evaluate_every=60)
    )
    reports = list(train(engine(step, dropping, tmp_path), rows, rows, step, folder=tmp_path, micro_batch_size=8))
    [first, last] = [report for report in reports if isinstance(report, EvaluationReport)]
    assert first.metrics["accuracy"] < last.metrics["accuracy"]
    assert last.metrics["accuracy"] > 0.8
    assert sum(isinstance(report, StepReport) for report in reports) == 120


class Cramped(torch.nn.Module):
    """Raises torch's own error for batches of more rows than it has room for."""

    def __init__(self, model: torch.nn.Module, room: int, message: str) -> None:
        super().__init__()
        self.model, self.room, self.message = model, room, message

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> Any:
        if len(input_ids) > self.room:
            raise RuntimeError(self.message)
        return self.model(input_ids, **inputs)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried",
        "CUDA out of memory.",
    ],
)
def test_out_of_memory_leaves_no_trace(encoder: Path, rows: Features, tmp_path: Path, message: str) -> None:
    step = train_step(optimizer=AdamW())
    subject, other = engine(step, encoder, tmp_path), engine(step, encoder, tmp_path)
    subject.objective.model = Cramped(subject.model, 4, message)
    batches = whole(rows, step, range(3)) + whole(rows, step, range(3, 20))
    with pytest.raises(OutOfMemory, match="memory"):
        do_step(subject, batches)
    with pytest.raises(OutOfMemory, match="memory"):
        subject.evaluate(batches[1])
    assert all(value.grad is None for value in subject.trained.values())
    small = whole(rows, step, range(20), 4)
    assert do_step(subject, small) == do_step(other, small)


class Short(torch.optim.Optimizer):
    """Descent with momentum that is made in two pieces, and has no room for some of them."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0})
        self.room = 1000  # parameters

    def init_state(self, group: Any, parameter: torch.nn.Parameter, index: int, place: int) -> None:
        self.state[parameter]["first"] = torch.zeros_like(parameter)
        if self.room == 0:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.room -= 1
        self.state[parameter]["second"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    state = self.state[value]
                    state["second"] += state["first"].add_(value.grad)
                    value.sub_(group["lr"] * state["second"])


def test_out_of_memory_for_what_is_unfrozen_leaves_a_step_that_can_be_done_again(
    encoder: Path, rows: Features, tmp_path: Path
) -> None:
    step = train_step(unfreeze_every=1)
    found = []
    for room in (3, 1000):
        wrapped = wrapped_model(step, encoder, tmp_path / "init.safetensors")
        optimizer = Short([{"params": list(wrapped.model.parameters()), "rate": 1.0}])
        subject = TorchEngine(step, wrapped, torch.device("cpu"), optimizer)
        do_step(subject, whole(rows, step, range(8)))
        optimizer.room = room
        if room == 3:
            before = values(subject)
            with pytest.raises(OutOfMemory, match="memory"):
                do_step(subject, whole(rows, step, range(8)), number=1)
            assert all(torch.equal(value, before[name]) for name, value in values(subject).items())
            optimizer.room = 1000
        found.append((do_step(subject, whole(rows, step, range(8), 4), number=1), values(subject)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_other_errors_of_torch_are_not_taken_for_full_memory(encoder: Path, rows: Features, tmp_path: Path) -> None:
    subject = engine(train_step(), encoder, tmp_path)
    subject.objective.model = Cramped(subject.model, 0, "shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        do_step(subject, whole(rows, subject.step, range(4)))


def test_bfloat16_computes_near_float32_with_float32_masters(encoder: Path, rows: Features, tmp_path: Path) -> None:
    for method in (Full(), LORA):
        exact, short = (
            engine(train_step(method=method, precision=precision), encoder, tmp_path / method.type)
            for precision in ("fp32", "bf16")
        )
        one, two = (do_step(subject, whole(rows, exact.step, range(20))) for subject in (exact, short))
        # bfloat16 keeps 8 bits.
        assert two == pytest.approx(one, rel=0.05)
        assert one != two
        assert all(value.dtype == torch.float32 for value in values(short).values())


# --- folders that are not a model


def test_a_folder_without_safetensors_is_an_error(tmp_path: Path) -> None:
    BertConfig(**BERT).save_pretrained(tmp_path / "model")
    with pytest.raises(RunError, match="transformers can't load the model") as caught:
        engine(train_step(), tmp_path / "model", tmp_path)
    assert caught.value.code == "E406"


def test_a_model_that_lacks_weights_of_its_encoder_is_an_error(encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = AutoModelForSequenceClassification.from_config(BertConfig(**BERT))
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layer.1" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"lack weights of the encoder: bert\.encoder\.layer\.1\."):
        engine(train_step(), tmp_path / "model", tmp_path)


def test_freezing_all_layers_is_an_error(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="freezes 3 of 3 layers"):
        engine(train_step(method=Freeze(layers=3)), encoder, tmp_path)
