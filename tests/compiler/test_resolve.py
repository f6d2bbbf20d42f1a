"""Recipe and facts -> ResolvedRecipe: what is chosen, why, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.auto import Choice
from compiler.diagnostics import Diagnostic, RecipeError
from compiler.facts import ValueFacts
from compiler.methods import Freeze, LoRA
from compiler.metrics import F1
from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal
from compiler.resolve import ResolvedRecipe
from compiler.tasks import TextClassification
from tests.handmade import CUDA, DATA, MODEL, resolved, split_facts, without_validation


def findings(**changes: Any) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        resolved(**changes)
    return caught.value.diagnostics


def choice(recipe: ResolvedRecipe, pointer: str) -> Choice:
    [found] = [made for made in recipe.choices if made.pointer == pointer]
    return found


# what does not fit


@pytest.mark.parametrize("layers", [6, 7])
def test_freezing_every_layer_is_named_with_the_most_that_is_possible(layers: int) -> None:
    [found] = findings(method={"type": "freeze", "layers": layers})
    assert (found.code, found.pointer) == ("R204", "/method/layers")
    assert "at most 5" in found.hint


def test_all_layers_but_one_can_be_frozen() -> None:
    assert resolved(method={"type": "freeze", "layers": 5}).method == Freeze(layers=5)


def test_target_modules_that_match_nothing_list_what_there_is() -> None:
    found = findings(method={"type": "lora", "target_modules": ["query", "qeury", "xyz", "ry"]})
    assert [(d.code, d.pointer) for d in found] == [("R205", f"/method/target_modules/{n}") for n in (1, 2, 3)]
    assert 'did you mean "query"?' in found[0].hint
    assert all("attention.self.query" in d.hint and "dense" in d.hint for d in found)


def test_a_target_is_the_end_of_a_name_after_a_dot() -> None:
    method = resolved(method={"type": "lora", "target_modules": ["query", "self.value", "pooler.dense"]}).method
    assert isinstance(method, LoRA)
    assert method.target_modules == ("query", "self.value", "pooler.dense")


def test_a_model_without_numbered_layers_needs_named_targets() -> None:
    [found] = findings(method="lora", model_facts=replace(MODEL, shapes={"pooler.dense.weight": (4, 4)}))
    assert (found.code, found.pointer) == ("R205", "/method/target_modules")


def test_a_target_without_a_near_one_lists_the_modules_once() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(method={"type": "lora", "target_modules": ["zzz", "qeury"]})
    far, near = caught.value.diagnostics
    listed = "the model has: attention.self.query, attention.self.value, dense, query, value"
    assert (far.hint, near.hint) == (listed, f'did you mean "query"? {listed}')


def test_class_weights_and_positive_classes_name_labels_that_rows_have() -> None:
    loss = {"type": "cross-entropy", "class_weights": {"good": 1, "a/b": 2}}
    found = findings(training={"loss": loss}, metrics=[{"type": "f1", "average": "binary", "positive": "god"}])
    assert [(d.code, d.pointer) for d in found] == [
        ("R208", "/training/loss/class_weights/a~1b"),
        ("R208", "/metrics/0/positive"),
    ]


@pytest.mark.parametrize("max_steps", [10, 11])
def test_a_warm_up_that_never_reaches_the_rate_is_named(max_steps: int) -> None:
    schedule = {"type": "linear", "warmup_steps": 11}
    [found] = findings(training={"max_steps": max_steps, "schedule": schedule})
    assert (found.code, found.pointer) == ("R212", "/training/schedule/warmup_steps")
    assert found.hint == f"at most {max_steps - 1}"
    assert resolved(training={"max_steps": 12, "schedule": schedule}).training.warmup_steps == 11


def test_a_training_of_one_step_has_no_warm_up() -> None:
    assert resolved(training={"max_steps": 1}).training.warmup_steps == 0
    assert resolved(training={"max_steps": 2}).training.warmup_steps == 1


def test_a_model_without_a_fast_tokenizer_is_refused() -> None:
    [found] = findings(model_facts=replace(MODEL, has_tokenizer=False))
    assert (found.code, found.pointer) == ("R407", "/model/id")


def test_more_tokens_than_the_model_has_positions_are_refused() -> None:
    [found] = findings(training={"max_length": 513})
    assert (found.code, found.pointer) == ("R408", "/training/max_length")
    endless = replace(MODEL, max_positions=None)
    assert resolved(training={"max_length": 513}, model_facts=endless).training.max_length == 513


def test_what_does_not_fit_is_reported_in_one_go() -> None:
    found = findings(
        method={"type": "freeze", "layers": 9},
        training={"max_length": 9999, "max_steps": 1, "schedule": {"type": "cosine", "warmup_steps": 2}},
        model_facts=replace(MODEL, has_tokenizer=False),
    )
    assert {d.code for d in found} == {"R204", "R212", "R407", "R408"}


# what is chosen


def test_every_choice_has_a_reason() -> None:
    assert all(made.reason for made in resolved(method="lora").choices)


@pytest.mark.parametrize(
    ("training", "epochs", "num_steps"),
    [
        ({}, 3, 75),
        ({"epochs": 2}, 2, 50),
        ({"batch_size": 30}, 3, 81),
        ({"max_steps": 10}, 1, 10),
        ({"max_steps": 26}, 2, 26),
        ({"batch_size": 10_000}, 3, 3),
    ],
)
def test_steps_follow_from_rows_batch_and_epochs(training: dict[str, Any], epochs: int, num_steps: int) -> None:
    """800 train rows: 25 batches of 32, or 27 of 30 with a part of one."""
    found = resolved(training=training).training
    assert (found.epochs, found.num_steps) == (epochs, num_steps)


@pytest.mark.parametrize(("method", "rate"), [("full", 5e-5), ("head", 1e-3), ("lora", 5e-4)])
def test_the_learning_rate_follows_from_the_method(method: str, rate: float) -> None:
    found = resolved(method=method)
    assert found.training.learning_rate == rate
    assert method in choice(found, "/training/learning_rate").reason


def test_what_is_written_is_not_chosen() -> None:
    found = resolved(
        training={"learning_rate": 1, "weight_decay": 0, "max_length": 64, "precision": "bf16", "keep": "last"}
    )
    assert found.training.learning_rate == 1.0
    assert not {"/training/learning_rate", "/training/weight_decay", "/training/max_length", "/training/precision"} & {
        made.pointer for made in found.choices
    }


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.01), ("adam", 0.0), ("sgd", 0.0)])
def test_the_weight_decay_follows_from_the_optimizer(optimizer: str, decay: float) -> None:
    assert resolved(training={"optimizer": optimizer}).training.weight_decay == decay


@pytest.mark.parametrize(
    ("longest", "positions", "expected"),
    [(40, 512, 40), (600, 512, 512), (600, 256, 256), (600, None, 512), (1, 512, 2), (0, 128, 128)],
)
def test_max_length_is_the_longest_row_within_the_limits(longest: int, positions: int | None, expected: int) -> None:
    data = replace(DATA, splits=(split_facts("train", {"bad": 1, "good": 1}, longest=longest),))
    found = resolved(
        dataset={"train": "rows.jsonl", "validation": None, "test": None},
        data_facts=data,
        model_facts=replace(MODEL, max_positions=positions),
    )
    assert found.training.max_length == expected


def test_precision_alone_depends_on_the_kind_of_target() -> None:
    cpu, cuda = resolved(), resolved(target=CUDA)
    assert (cpu.training.precision, cuda.training.precision) == ("fp32", "bf16")
    assert replace(cuda.training, precision="fp32") == cpu.training


def test_the_best_checkpoint_is_kept_where_validation_rows_can_tell() -> None:
    dataset = {"train": "rows.jsonl", "validation": None}
    assert resolved().training.keep_best
    assert not resolved(dataset=dataset, data_facts=without_validation()).training.keep_best
    assert not resolved(training={"keep": "last"}).training.keep_best


def test_labels_are_those_of_the_rows_in_the_order_of_the_model_s_head() -> None:
    def labels_with(head: tuple[str, ...] | None) -> object:
        return resolved(model_facts=replace(MODEL, labels=head)).task

    assert labels_with(None) == TextClassification(labels=("bad", "good"))
    assert labels_with(("good", "bad")) == TextClassification(labels=("good", "bad"))
    assert labels_with(("good", "ugly")) == TextClassification(labels=("bad", "good"))


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (None, False),
        (("good", "bad"), True),
        (("bad", "good"), True),
        (("good", "ugly"), False),
        (("bad", "good", "ugly"), False),
    ],
)
def test_a_trained_head_is_kept_when_its_labels_match_by_name(labels: tuple[str, ...] | None, kept: bool) -> None:
    found = resolved(model_facts=replace(MODEL, labels=labels))
    assert found.keep_head is kept
    assert choice(found, "/model").value == ("head kept" if kept else "new head")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "the model has no classification head"),
        (("good", "ugly"), "its labels are others"),
        (("bad", "good"), "its labels are in another order"),
    ],
)
def test_a_head_is_replaced_for_a_true_reason(labels: tuple[str, ...] | None, reason: str) -> None:
    task = {"type": "text-classification", "labels": ["good", "bad"]}
    found = resolved(
        task=task, model_facts=replace(MODEL, labels=labels), data_facts=replace(DATA, labels=("good", "bad"))
    )
    assert not found.keep_head
    assert choice(found, "/model").reason == reason


def test_balanced_weights_are_inverse_to_the_counts_and_average_to_one_over_rows() -> None:
    loss = {"type": "cross-entropy", "class_weights": "balanced"}
    weights = {"bad": 800 / (2 * 200), "good": 800 / (2 * 600)}
    assert resolved(training={"loss": loss}).training.loss == CrossEntropy(class_weights=weights)
    assert 200 * weights["bad"] + 600 * weights["good"] == pytest.approx(800)


def test_a_balance_of_weights_is_balanced_class_weights_and_says_so() -> None:
    weights = {"bad": 800 / (2 * 200), "good": 800 / (2 * 600)}
    found = resolved(training={"balance": "weights"})
    assert found.training.loss == CrossEntropy(class_weights=weights)
    assert found.training.draw == "every"
    assert [choice.value for choice in found.choices if choice.pointer == "/training/loss/class_weights"] == [
        "balanced"
    ]
    focal = resolved(training={"balance": "weights", "loss": "focal"}).training.loss
    assert focal == Focal(class_weights=weights)


@pytest.mark.parametrize(("balance", "rows"), [("oversample", 2 * 600), ("undersample", 2 * 200)])
def test_steps_are_counted_over_the_rows_of_a_balanced_epoch(balance: str, rows: int) -> None:
    found = resolved(training={"balance": balance, "epochs": 2}).training
    assert (found.draw, found.num_steps, found.epochs) == (balance, 2 * -(-rows // 32), 2)
    assert found.evaluate_every == -(-rows // 32)
    assert found.loss == CrossEntropy()


def test_a_label_set_weighs_rows_with_a_label_by_those_without() -> None:
    task = {"type": "text-classification", "multi_label": True}
    found = resolved(task=task, training={"balance": "weights"})
    assert found.training.loss == BinaryCrossEntropy(class_weights={"bad": 600 / 200, "good": 200 / 600})
    assert [choice.value for choice in found.choices if choice.pointer == "/task/threshold"] == ["auto"]
    fixed = resolved(data_facts=without_validation(), task=task, dataset={"train": "rows.jsonl", "validation": None})
    assert getattr(fixed.task, "threshold") == 0.5  # noqa: B009  (the task is one of several)


def test_a_label_without_a_named_weight_weighs_one() -> None:
    loss = {"type": "cross-entropy", "class_weights": {"good": 3}}
    assert resolved(training={"loss": loss}).training.loss == CrossEntropy(class_weights={"bad": 1.0, "good": 3.0})


def test_the_positive_class_is_the_last_label() -> None:
    [metric] = resolved(metrics=[{"type": "f1", "average": "binary"}]).metrics
    assert metric == F1(average="binary", positive="good")


@pytest.mark.parametrize(
    ("metric", "expected"), [("auto", "accuracy"), ("loss", "loss"), ("f1", "f1_micro"), ("f1_micro", "f1_micro")]
)
def test_early_stopping_looks_at_the_metric_that_it_names(metric: str, expected: str) -> None:
    metrics = ["accuracy", {"type": "f1", "average": "micro"}]
    assert (
        resolved(metrics=metrics, training={"early_stopping": {"metric": metric}}).training.selection_metric == expected
    )


def test_held_out_rows_are_the_test_rows_or_else_the_validation_rows() -> None:
    assert resolved().held_out == "test"
    assert resolved(dataset={"train": "rows.jsonl", "test": None}).held_out == "validation"
    assert (
        resolved(
            dataset={"train": "rows.jsonl", "test": None, "validation": None}, data_facts=without_validation()
        ).held_out
        is None
    )


@pytest.mark.parametrize("task", ["text-classification", "text-regression"])
def test_a_decoder_that_answers_for_a_text_needs_a_padding_token(task: str) -> None:
    values = ValueFacts(mean=0.0, deviation=1.0, minimum=-1.0, maximum=1.0)
    data = replace(DATA, splits=tuple(replace(split, values=(values,)) for split in DATA.splits))
    decoder = replace(MODEL, model_type="gpt2", architecture="decoder", padding=None)
    with pytest.raises(RecipeError) as caught:
        resolved(decoder, data, task=task)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R410", "/model/id")
    assert resolved(replace(decoder, padding=5), data, task=task).target == "cpu"


def test_an_encoder_does_not_write() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(task="text-generation")
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R410", "/model/id")
    assert found.message == "the model is an encoder (bert), and the task tunes decoders"


def test_rows_are_packed_where_the_model_keeps_them_apart() -> None:
    """Windows and slopes over distances would be lost with a mask of our own (R220)."""
    decoder = replace(MODEL, model_type="bloom", architecture="decoder", packs=False)
    assert resolved(decoder, task="continued-pretraining").training.packing == "none"
    assert resolved(replace(decoder, packs=True), task="continued-pretraining").training.packing == "fill"
    with pytest.raises(RecipeError) as caught:
        resolved(decoder, task="continued-pretraining", training={"packing": True})
    assert [(found.code, found.pointer) for found in caught.value.diagnostics] == [("R220", "/training/packing")]
