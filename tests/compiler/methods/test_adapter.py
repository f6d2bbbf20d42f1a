"""Bottleneck adapters in the language: after which projections they stand, and what does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.diagnostics import Diagnostic, RecipeError
from compiler.methods import Adapter
from compiler.methods.adapter import matches, tuned
from tests.handmade import MODEL, planned, resolved

ADAPTER: dict[str, Any] = {"type": "adapter"}


def model(**shapes: tuple[int, ...]) -> Any:
    """The handmade model with these weights in its layer, __ for a dot."""
    named = {f"encoder.layer.0.{name.replace('__', '.')}": shape for name, shape in shapes.items()}
    return replace(MODEL, shapes={**named, "pooler.dense.weight": (7, 7)})


BERT = model(
    attention__self__query__weight=(32, 32),
    attention__output__dense__weight=(32, 32),
    intermediate__dense__weight=(64, 32),
    output__dense__weight=(32, 64),
)


def findings(model_facts: Any = BERT, **method: Any) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        resolved(model_facts, method={**ADAPTER, **method})
    return caught.value.diagnostics


@pytest.mark.parametrize(
    ("placement", "expected"),
    [("houlsby", ("attention.output.dense", "output.dense")), ("pfeiffer", ("output.dense",))],
)
def test_a_placement_is_after_the_last_projections(placement: str, expected: tuple[str, ...]) -> None:
    found = resolved(BERT, method={**ADAPTER, "placement": placement})
    assert isinstance(found.method, Adapter)
    assert found.method.target_modules == expected
    [choice] = [made for made in found.choices if made.pointer == "/method/target_modules"]
    assert choice.value == expected
    assert found.tuned.modules == tuple(f"encoder.layer.0.{name}" for name in expected)


def test_a_target_is_a_whole_name_inside_a_layer() -> None:
    assert matches("output.dense", "encoder.layer.0.output.dense")
    assert not matches("output.dense", "encoder.layer.0.attention.output.dense")
    assert matches("pooler.dense", "pooler.dense")
    assert matches("SelfAttention.o", "decoder.block.1.layer.0.SelfAttention.o")


def test_two_matrices_and_two_biases_are_trained_after_each_projection() -> None:
    method = Adapter(target_modules=("output.dense",), reduction_factor=4)
    assert tuned(method, BERT).parameters == 2 * 32 * 8 + 8 + 32


def test_the_bias_says_how_many_outputs_a_layer_has_that_is_stored_the_other_way_round() -> None:
    stored = model(mlp__c_proj__weight=(64, 32), mlp__c_proj__bias=(32,))
    method = Adapter(target_modules=("mlp.c_proj",), reduction_factor=4)
    assert tuned(method, stored).parameters == 2 * 32 * 8 + 8 + 32


def test_a_model_whose_layers_are_not_known_wants_names() -> None:
    [found] = findings(model(mixer__weight=(32, 32)))
    assert (found.code, found.pointer) == ("R205", "/method/target_modules")
    assert found.hint == "name target_modules; the model has: mixer"
    named = resolved(model(mixer__weight=(32, 32)), method={**ADAPTER, "target_modules": ["mixer"]})
    assert named.tuned.modules == ("encoder.layer.0.mixer",)


def test_half_of_a_placement_is_none() -> None:
    """Of layers with several experts the attention's projection is known, and the feed-forwards' are not."""
    experts = model(self_attn__o_proj__weight=(32, 32), mlp__experts__0__down_proj__weight=(32, 32))
    [found] = findings(experts)
    assert (found.code, found.pointer) == ("R205", "/method/target_modules")


def test_a_model_without_linear_layers_wants_another_method() -> None:
    [found] = findings(replace(MODEL, shapes={}))
    assert found.hint == 'use the method "full", "freeze" or "head"'


def test_a_name_that_is_none_is_named_with_the_nearest() -> None:
    [found] = findings(target_modules=["output.dense", "atention.output.dense"])
    assert (found.code, found.pointer) == ("R205", "/method/target_modules/1")
    assert 'did you mean "attention.output.dense"?' in found.hint


def test_an_adapter_has_a_unit_at_least() -> None:
    [found] = findings(reduction_factor=33)
    assert (found.code, found.pointer, found.hint) == ("R233", "/method/reduction_factor", "at most 32")
    assert resolved(BERT, method={**ADAPTER, "reduction_factor": 32}).tuned.parameters == 2 * (2 * 32 + 1 + 32)


def test_nothing_is_merged_before_an_export() -> None:
    steps = planned(BERT, method={**ADAPTER}, export=["onnx"]).steps
    assert [step.id for step in steps] == ["prepare", "train", "evaluate", "export", "verify", "package"]
    assert steps[3].inputs == ("train",)
