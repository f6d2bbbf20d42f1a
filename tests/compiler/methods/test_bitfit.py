"""BitFit in the language: which parameters are biases, and a model that has none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compiler.diagnostics import RecipeError
from compiler.weights import is_bias
from tests.handmade import MODEL, planned, resolved

SHAPES = {
    "embeddings.word_embeddings.weight": (50, 8),
    "embeddings.LayerNorm.beta": (8,),  # as old files call it
    "encoder.layer.0.attention.self.query.weight": (8, 8),
    "encoder.layer.0.attention.self.query.bias": (8,),
    "pooler.dense.bias": (8,),
    "cls.predictions.bias": (50,),
}


def test_the_biases_below_poolers_and_heads_are_tuned() -> None:
    found = resolved(replace(MODEL, shapes=SHAPES), method="bitfit").tuned
    assert found.modules == ("embeddings.LayerNorm", "encoder.layer.0.attention.self.query")
    assert found.parameters == 16


@pytest.mark.parametrize(
    ("name", "num_axes", "expected"),
    [
        ("h.0.attn.bias", 4, False),  # GPT-2's mask
        ("h.0.attn.c_attn.bias", 1, True),
        ("attention.self.q_bias", 1, True),
        ("block.0.layer.0.SelfAttention.relative_attention_bias.weight", 2, False),
        ("layer_norm.weight", 1, False),
    ],
)
def test_a_bias_is_told_by_its_name_and_its_axes(name: str, num_axes: int, expected: bool) -> None:
    assert is_bias(name, num_axes) is expected


def test_a_model_without_biases_is_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(method="bitfit")
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer, found.hint) == ("R234", "/method", 'use the method "lora"')


def test_a_whole_model_is_saved_and_nothing_is_merged() -> None:
    steps = planned(replace(MODEL, shapes=SHAPES), method="bitfit", export=["onnx"]).steps
    assert "merge" not in [step.id for step in steps]
