"""Options of training: what the plan has of them, and where nothing would read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.diagnostics import Diagnostic, RecipeError
from compiler.plan import Plan, Train
from tests.handmade import MODEL, planned

OPTIONS: dict[str, Any] = {
    "layer_decay": 0.9,
    "head_lr_multiplier": 5,
    "unfreeze_every": 10,
    "decay_excludes": ["embeddings", "biases"],
    "neftune_alpha": 5,
    "ema_decay": 0.99,
}


def train_of(**changes: Any) -> Train:
    step = planned(**changes).step("train")
    assert isinstance(step, Train)
    return step


def findings(**changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(RecipeError) as caught:
        planned(**changes)
    return [(found.code, found.pointer) for found in caught.value.diagnostics]


def finding(**changes: Any) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        planned(**changes)
    [found] = caught.value.diagnostics
    return found


def test_the_plan_has_every_option_and_reads_it_back() -> None:
    step = train_of(training=OPTIONS)
    assert (step.layer_decay, step.head_lr_multiplier, step.unfreeze_every) == (0.9, 5.0, 10)
    assert (step.decay_excludes, step.neftune_alpha, step.ema_decay) == (("biases", "embeddings"), 5.0, 0.99)
    plan = planned(training=OPTIONS)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_in_the_key_of_the_training(option: str) -> None:
    plain, changed = planned(), planned(training={option: OPTIONS[option]})
    different = {name for name, key in plain.keys().items() if changed.keys()[name] != key}
    assert different == {"train", "evaluate"}


def test_what_is_written_as_its_default_changes_no_plan() -> None:
    written: dict[str, Any] = {
        "layer_decay": 1,
        "head_lr_multiplier": 1.0,
        "unfreeze_every": None,
        "neftune_alpha": None,
    }
    written |= {"ema_decay": None, "decay_excludes": ["vectors"]}
    assert planned(training=written).text() == planned().text()


def test_the_order_of_what_does_not_decay_changes_no_plan() -> None:
    one, other = (planned(training={"decay_excludes": order}) for order in (["head", "norms"], ["norms", "head"]))
    assert one.text() == other.text()


def test_an_epoch_between_two_layers_is_counted_in_steps() -> None:
    assert train_of(training={"unfreeze_every": "epoch"}).unfreeze_every == 25


@pytest.mark.parametrize("option", ["layer_decay", "head_lr_multiplier", "unfreeze_every"])
def test_a_head_alone_has_one_rate(option: str) -> None:
    found = finding(method="head", training={option: OPTIONS[option]})
    assert (found.code, found.pointer) == ("R202", f"/training/{option}")
    assert "the head alone is trained" in found.hint


@pytest.mark.parametrize("option", ["layer_decay", "unfreeze_every"])
@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"method": {"type": "lora", "target_modules": ["pooler.dense"]}}, MODEL),
        ({}, replace(MODEL, num_layers=0)),
    ],
)
def test_layers_that_are_not_there_or_not_trained_have_no_rates(option: str, changes: Any, facts: Any) -> None:
    training = {option: OPTIONS[option]}
    assert findings(model_facts=facts, training=training, **changes) == [("R202", f"/training/{option}")]


def test_an_adapter_has_rates_by_layer() -> None:
    assert train_of(method="lora", training={"layer_decay": 0.5}).layer_decay == 0.5


def test_a_method_that_does_not_fit_is_the_only_finding() -> None:
    method = {"type": "lora", "target_modules": ["nothing"]}
    assert [code for code, _ in findings(method=method, training={"layer_decay": 0.5})] == ["R205"]


@pytest.mark.parametrize(("steps", "hint"), [(75, "at most 74"), (1000, "at most 74")])
def test_unfreezing_begins_before_the_training_ends(steps: int, hint: str) -> None:
    found = finding(training={"unfreeze_every": steps})
    assert (found.code, found.pointer) == ("R221", "/training/unfreeze_every")
    assert hint in found.hint
    assert train_of(training={"unfreeze_every": 74}).unfreeze_every == 74
