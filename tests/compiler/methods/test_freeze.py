"""Frozen layers in the language: what counts as a layer, and which of them are left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.diagnostics import Diagnostic, RecipeError
from compiler.layers import layers_of
from compiler.methods import Freeze
from tests.handmade import MODEL, planned, resolved


def findings(**method: Any) -> tuple[Diagnostic, ...]:
    with pytest.raises(RecipeError) as caught:
        resolved(method={"type": "freeze", **method})
    return caught.value.diagnostics


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["h.0.ln_1.bias", "h.1.ln_1.bias", "wte.weight", "ln_f.bias"], [0, 1, None, None]),
        (["model.decoder.layers.0.a", "model.encoder.layers.1.a", "model.encoder.layers.0.a"], [2, 1, 0]),
        (["encoder.block.0.layer.1.wi", "decoder.block.0.layer.2.wo"], [0, 1]),
        (["decoder.bert.encoder.layer.0.a", "encoder.encoder.layer.0.a"], [1, 0]),
        (["resnet.encoder.stages.1.layers.0.a", "resnet.encoder.stages.0.layers.3.a"], [1, 0]),
        (["pvt.encoder.patch_embeddings.0.a", "pvt.encoder.block.0.1.a"], [None, 0]),
        (["classifier.1.a", "layer.0.a"], [None, 0]),
    ],
)
def test_a_layer_is_what_the_first_number_counts(names: list[str], expected: list[int | None]) -> None:
    found = layers_of(dict.fromkeys(names, (2, 2)))
    assert [found.get(name) for name in names] == expected


def test_of_several_stacks_the_largest_counts() -> None:
    found = layers_of({"stem.0.a": (2,), "stem.1.a": (2,), "layer.0.a": (9,)})
    assert found == {"layer.0.a": 0}


def test_the_last_layers_are_the_others_frozen() -> None:
    found = resolved(method={"type": "freeze", "last": 2})
    assert found.method == Freeze(layers=4)
    [choice] = [made for made in found.choices if made.pointer == "/method/layers"]
    assert (choice.value, choice.reason) == (4, "all but the last 2 of 6")
    same = {"type": "freeze", "layers": 4}
    assert planned(method={"type": "freeze", "last": 2}).keys() == planned(method=same).keys()


def test_every_layer_can_be_the_last_ones() -> None:
    assert resolved(method={"type": "freeze", "last": 6}).method == Freeze(layers=0)


def test_more_last_layers_than_there_are_is_refused() -> None:
    [found] = findings(last=7)
    assert (found.code, found.pointer, found.hint) == ("R204", "/method/last", "at most 6")


def test_one_of_layers_and_last_is_said() -> None:
    [found] = findings()
    assert (found.code, found.pointer) == ("R105", "/method")
    [found] = findings(layers=1, last=1)
    assert (found.code, found.pointer, found.hint) == ("R202", "/method/last", "keep one of layers and last")


def test_layers_that_nothing_loads_are_not_tuned() -> None:
    shapes = {f"model.layers.{number}.mlp.weight": (2, 2) for number in range(7)}  # the seventh predicts further tokens
    found = resolved(replace(MODEL, shapes=shapes), method={"type": "freeze", "last": 1}).tuned
    assert (found.modules, found.parameters) == (("model.layers.5.mlp",), 4)
