"""QLoRA in the language: where it runs, which layers it can hold, and what of it reaches a key."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from compiler.checks import check_placement
from compiler.diagnostics import RecipeError
from compiler.methods import QLoRA
from compiler.placement import Runtime, Target
from tests.handmade import CPU, CUDA, MODEL, planned, read, resolved

MPS = Target(kind="mps", memory_gib=None, reason="Apple silicon")
QLORA: dict[str, Any] = {"method": "qlora", "runtime": "mlx", "export": ["onnx"]}


def model(**inputs: int) -> Any:
    """The handmade model with these linear modules in its layers, by their inputs."""
    named = {f"encoder.layer.0.{name}.weight": (8, count) for name, count in inputs.items()}
    return replace(MODEL, shapes={**named, "pooler.dense.weight": (7, 7)})


def test_what_is_open_is_chosen_as_for_lora() -> None:
    found = resolved(model(query=384), **QLORA)
    assert found.method == QLoRA(alpha=16.0, target_modules=("query",))
    assert (found.method.bits, found.method.group_size) == (4, 64)
    assert {made.pointer for made in found.choices} >= {"/method/alpha", "/method/target_modules"}


def test_an_adapter_is_merged_before_its_export() -> None:
    assert [step.id for step in planned(**QLORA).steps][3] == "merge"


@pytest.mark.parametrize("change", [{"bits": 8}, {"group_size": 32}, {"rank": 4}])
def test_what_changes_the_result_changes_the_key_of_the_training(change: dict[str, int]) -> None:
    before, after = planned(**QLORA).keys(), planned(**{**QLORA, "method": {"type": "qlora", **change}}).keys()
    assert {name for name in before if before[name] != after[name]} == set(before) - {"prepare"}


def test_lora_and_qlora_are_other_trainings() -> None:
    assert planned(**QLORA).keys()["train"] != planned(**{**QLORA, "method": "lora"}).keys()["train"]


@pytest.mark.parametrize("bits", [2, 5, 4.5, "4", True])
def test_other_bits_are_refused(bits: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        read(method={"type": "qlora", "bits": bits})
    assert {found.pointer for found in caught.value.diagnostics} == {"/method/bits"}


@pytest.mark.parametrize(
    ("target", "runtime", "reason"),
    [
        (CPU, None, "pytorch was chosen on cpu: the usual runtime on cpu"),
        (CUDA, None, "pytorch was chosen on cuda: the usual runtime on cuda"),
        (MPS, "pytorch", "pytorch was chosen on mps: asked for"),
    ],
)
def test_a_runtime_that_can_not_run_it_is_named_with_the_one_that_can(
    target: Target, runtime: Runtime | None, reason: str
) -> None:
    [found] = check_placement(read(method="qlora"), target, runtime)
    assert (found.code, found.pointer) == ("R213", "/method")
    assert found.message == f'the method "qlora" runs on mlx, and {reason}'
    assert found.hint == 'write "runtime": "mlx", or --runtime mlx'


@pytest.mark.parametrize(("target", "runtime"), [(MPS, None), (CPU, "mlx"), (CUDA, "mlx")])
def test_mlx_runs_it_on_every_target(target: Target, runtime: Runtime | None) -> None:
    assert not list(check_placement(read(method="qlora"), target, runtime))


@pytest.mark.parametrize(
    ("inputs", "size", "hint"),
    [
        ({"query": 384, "output": 96}, 64, 'write "group_size": 32'),
        ({"query": 64, "output": 192}, 128, 'write "group_size": 64'),
        ({"query": 48, "output": 32}, 64, 'write "group_size": 32'),
        ({"query": 48, "output": 50}, 32, 'use the method "lora"'),
    ],
)
def test_a_group_size_that_leaves_layers_out_is_named_with_one_that_does_not(
    inputs: dict[str, int], size: int, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        resolved(model(**inputs), method={"type": "qlora", "group_size": size}, runtime="mlx")
    [found] = caught.value.diagnostics
    assert (found.code, found.hint) == ("R214", hint)


def test_a_layer_that_no_group_size_divides_stays_and_is_said() -> None:
    found = resolved(model(query=384, dt=48), **QLORA)
    [made] = [made for made in found.choices if made.pointer == "/method/group_size"]
    assert made.reason.startswith("1 of 2 linear layers are not quantized")
    assert made.reason.endswith("encoder.layer.0.dt")


def test_layers_that_are_stored_the_other_way_round_are_held_by_their_inputs() -> None:
    """GPT-2's hold [inputs, outputs]: 64 is divided, and 96 would not be."""
    facts = replace(MODEL, model_type="gpt2", shapes={"h.0.attn.c_attn.weight": (64, 96)})
    assert facts.linear_inputs == {"h.0.attn.c_attn": 64}
    found = resolved(facts, **QLORA)
    assert not [made for made in found.choices if made.pointer == "/method/group_size"]


def test_a_method_that_runs_everywhere_has_no_finding() -> None:
    assert not list(check_placement(read(method="lora"), CPU, "mlx"))
    assert json.loads(planned(method="lora").text())["steps"]


def exported(size: int, **inputs: int) -> Any:
    export = [{"format": "mlx", "bits": 4, "group_size": size}]
    task: dict[str, Any] = {"task": "text-generation", "metrics": ["perplexity"]}
    return resolved(replace(model(**inputs), architecture="decoder"), **task, export=export)


@pytest.mark.parametrize(
    ("inputs", "size", "hint"),
    [
        ({"query": 32, "output": 96}, 64, 'write "group_size": 32'),
        ({"query": 48, "output": 50}, 32, "leave out bits: no group size divides them"),
    ],
)
def test_an_export_that_would_quantize_nothing_is_named(inputs: dict[str, int], size: int, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        exported(size, **inputs)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer, found.hint) == ("R214", "/export/0/group_size", hint)


def test_an_export_that_quantizes_few_layers_says_how_many() -> None:
    [made] = [made for made in exported(64, query=64, output=96).choices if made.pointer == "/export/0/group_size"]
    assert made.reason == "1 of 2 linear layers are quantized, the group size does not divide the inputs of the rest"
