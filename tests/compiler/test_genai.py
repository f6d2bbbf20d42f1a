"""What writes a decoder's graph: the choice, its reason, and what may not be named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from compiler.diagnostics import RecipeError
from compiler.facts import HeadFacts, ModelFacts
from compiler.genai import OPSET, ROPE, check_adapted, check_exported, exporter_choices, settled_export
from compiler.loading import load_text
from compiler.model_facts import _heads
from compiler.reading import read_recipe
from compiler.recipe import Onnx, Recipe
from tests.handmade import MODEL, RECIPE

LLAMA = replace(MODEL, model_type="llama", architecture="decoder", heads=HeadFacts(size=64))


def recipe(export: dict[str, Any], **changes: Any) -> Recipe:
    dataset = {"train": "rows.jsonl", "test": {"fraction": 0.1}}
    value = {**RECIPE, "task": "text-generation", "dataset": dataset, **changes, "export": [export]}
    found = read_recipe(load_text(json.dumps(value), "recipe.json"))
    assert isinstance(found, Recipe)
    return found


def settled(model: ModelFacts, **keys: Any) -> tuple[Onnx, str]:
    """The export, and the reason for it."""
    given = recipe({"format": "onnx", **keys})
    export = settled_export(given.export[0], given, model)
    assert isinstance(export, Onnx)
    [*choices] = exporter_choices(given, model)
    return export, choices[0].reason if choices else ""


@pytest.mark.parametrize("kind", ROPE)
def test_architectures_that_are_written_right_are_left_to_the_builder(kind: str) -> None:
    export, reason = settled(replace(LLAMA, model_type=kind))
    assert (export.exporter, export.opset) == ("genai", OPSET)
    assert reason == f"onnxruntime-genai 0.18 writes {kind} with grouped-query attention, and our tests find it equal"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (replace(LLAMA, model_type="gpt2"), "gpt2 is none of those that it writes right"),
        (replace(LLAMA, heads=HeadFacts(size=8)), "heads of a multiple of 16 numbers, and the model's have 8"),
        (replace(LLAMA, heads=None), "heads of a multiple of 16 numbers, and the model's have an unknown number of"),
        (replace(LLAMA, heads=HeadFacts(size=64, rope="yarn")), "its rotary embedding is yarn, untested there"),
        (replace(LLAMA, heads=HeadFacts(size=64, partial=True)), "its rotary embedding of a part of each head"),
    ],
)
def test_others_are_left_to_transformers_and_may_not_be_named(model: ModelFacts, reason: str) -> None:
    export, said = settled(model)
    assert (export.exporter, export.opset) == ("transformers", "auto")
    assert reason in said
    [found] = check_exported(recipe({"format": "onnx", "exporter": "genai"}), model)
    assert (found.code, found.pointer) == ("R241", "/export/0/exporter")
    assert reason in found.message


def test_an_operator_set_of_another_number_is_left_to_transformers() -> None:
    export, reason = settled(LLAMA, opset=18)
    assert (export.exporter, export.opset) == ("transformers", 18)
    assert reason == f"it writes operator set {OPSET}, and 18 is asked for"


def test_what_the_recipe_names_is_kept_and_needs_no_reason() -> None:
    for exporter in ("genai", "transformers"):
        assert settled(LLAMA, exporter=exporter)[0].exporter == exporter
        assert settled(LLAMA, exporter=exporter)[1] == ""


def test_a_classifier_is_no_choice() -> None:
    given = recipe({"format": "onnx"}, task="text-classification")
    export = settled_export(given.export[0], given, MODEL)
    assert isinstance(export, Onnx) and export.exporter == "transformers"
    assert not list(exporter_choices(given, MODEL))


def test_what_is_rounded_afterwards_is_written_by_the_same_exporter() -> None:
    export, _ = settled(LLAMA, precision="int8")
    assert export.whole == Onnx(opset=OPSET, exporter="genai")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_attention_heads": 4, "hidden_size": 64}, HeadFacts(size=16)),
        ({"num_attention_heads": 4, "hidden_size": 64, "head_dim": 32, "rope_scaling": None}, HeadFacts(size=32)),
        ({"head_dim": 64, "rope_scaling": {"type": "linear", "factor": 2.0}}, HeadFacts(size=64, rope="linear")),
        ({"head_dim": 64, "rope_parameters": {"rope_type": "llama3"}}, HeadFacts(size=64, rope="llama3")),
        ({"head_dim": 64, "rope_parameters": {"rope_theta": 1e4}}, HeadFacts(size=64)),
        ({"head_dim": 64, "rope_parameters": {"full_attention": {}}}, HeadFacts(size=64, rope="by layer")),
        ({"head_dim": 64, "partial_rotary_factor": 0.5}, HeadFacts(size=64, partial=True)),
        ({"head_dim": 64, "partial_rotary_factor": 1.0}, HeadFacts(size=64)),
        ({"hidden_size": 64}, None),
    ],
)
def test_heads_are_read_as_configurations_of_all_releases_say_them(
    config: dict[str, Any], expected: HeadFacts | None
) -> None:
    assert _heads(config) == expected


SEPARATE = {"format": "onnx", "adapter": "separate"}


@pytest.mark.parametrize(
    ("keys", "method", "reason"),
    [
        ({}, "full", 'the method "full" leaves no plain low-rank updates'),
        ({}, "dora", 'the method "dora" leaves no plain low-rank updates'),
        ({}, {"type": "lora", "modules_to_save": ["lm_head"]}, "modules_to_save are trained in full"),
        ({"exporter": "transformers"}, "lora", 'the exporter "transformers" writes none'),
        ({"precision": "int4"}, "lora", 'it is written in fp32, and the precision is "int4"'),
    ],
)
def test_a_recipe_whose_adapter_can_t_stay_beside_the_graph_is_told_why(
    keys: dict[str, Any], method: Any, reason: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe({**SEPARATE, **keys}, method=method)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R242", "/export/0/adapter")
    assert reason in found.message and found.hint == 'write "merged", or leave it out'


def test_an_adapter_stays_beside_the_graph_of_a_model_that_the_builder_writes() -> None:
    given = recipe(SEPARATE, method="lora")
    assert not [*check_adapted(given, LLAMA)]
    [found] = check_adapted(given, replace(LLAMA, model_type="gpt2"))
    assert found.code == "R242" and "gpt2 is none of those that it writes right" in found.message
    named = recipe({**SEPARATE, "exporter": "genai"}, method="lora")
    assert not [*check_adapted(named, replace(LLAMA, model_type="gpt2"))]  # R241 says it
