"""PEFT's names, as they stand in wrapped models and in the files of adapters."""

from __future__ import annotations

import pytest

from compiler.adapter_names import bare_name, inside, is_of_head, own_names, saved_name, without_parts

HEAD = ("classifier", "bert.pooler")


@pytest.mark.parametrize(
    ("name", "bare", "own"),
    [
        ("base_model.model.bert.x.weight", "bert.x.weight", ("bert.x.weight", "model.bert.x.weight")),
        ("base_model.bert.x.weight", "bert.x.weight", ("base_model.bert.x.weight", "bert.x.weight")),
        ("bert.x.weight", "bert.x.weight", ("bert.x.weight",)),
    ],
)
def test_a_name_is_found_with_modules_within_with_tokens_beside_and_alone(
    name: str, bare: str, own: tuple[str, ...]
) -> None:
    assert bare_name(name) == bare
    assert own_names(name) == own


@pytest.mark.parametrize(
    ("name", "saved", "plain"),
    [
        ("a.lora_A.default.weight", "a.lora_A.weight", "a.lora_A.default.weight"),
        ("a.lora_magnitude_vector.default.weight", "a.lora_magnitude_vector", "a.lora_magnitude_vector.default.weight"),
        ("a.ia3_l.default", "a.ia3_l", "a.ia3_l.default"),
        ("a.modules_to_save.default.weight", "a.weight", "a.weight"),
        ("a.base_layer.weight", "a.base_layer.weight", "a.weight"),
        ("a.ln_tuning_layers.default.weight", "a.ln_tuning_layers.weight", "a.weight"),
        ("a.default_size.weight", "a.default_size.weight", "a.default_size.weight"),
    ],
)
def test_files_leave_out_the_adapter_s_name_and_the_model_what_was_wrapped(name: str, saved: str, plain: str) -> None:
    assert saved_name(name) == saved
    assert without_parts(name) == plain


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base_model.model.classifier.modules_to_save.default.weight", True),
        ("base_model.classifier.modules_to_save.default.weight", True),
        ("bert.pooler.dense.bias", True),
        ("bert.pooler", True),
        ("bert.poolers.dense.bias", False),
        ("base_model.model.bert.classifier.weight", False),
    ],
)
def test_the_head_is_whole_modules_however_the_model_is_wrapped(name: str, expected: bool) -> None:
    assert is_of_head(name, HEAD) is expected


def test_a_module_is_inside_of_itself_and_not_of_one_whose_name_goes_on() -> None:
    assert inside("a.b", "a.b") and inside("a.b.c", "a.b")
    assert not inside("a.bc", "a.b")
