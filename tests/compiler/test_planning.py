"""ResolvedRecipe -> Plan: which steps, with which parameters, and what reaches whose key."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.lengths import length_grid
from compiler.plan import Plan, Selection, Train
from tests.handmade import CUDA, DATA, MODEL, planned, without_validation

GOLDEN = Path(__file__).parents[1] / "plans" / "lora.json"
LORA: dict[str, Any] = {"method": {"type": "lora", "rank": 4}, "metrics": ["accuracy", "f1"], "export": ["onnx"]}
NO_VALIDATION: dict[str, Any] = {
    "dataset": {"train": "rows.jsonl", "validation": None},
    "data_facts": without_validation(),
}


def train_of(plan: Plan) -> Train:
    step = plan.step("train")
    assert isinstance(step, Train)
    return step


def selection_of(**changes: Any) -> Selection | None:
    return train_of(planned(**changes)).selection


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The steps whose keys differ between two recipes that have the same steps."""
    old, new = planned(**before).keys(), planned(**after).keys()
    assert old.keys() == new.keys()
    return {name for name in old if old[name] != new[name]}


def test_the_plan_of_a_recipe_is_the_committed_one() -> None:
    """A difference here means that finished runs are done again: raise a `semantics` number if results differ."""
    text = planned(**LORA).text()
    if os.environ.get("RECIPEC_REGENERATE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_an_export_comes_after_the_model_that_it_writes_and_no_other() -> None:
    assert planned(**LORA).step("export").inputs == ("merge",)
    assert planned(export=["onnx"]).step("export").inputs == ("train",)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, ["prepare", "train", "evaluate"]),
        ({"export": ["onnx"]}, ["prepare", "train", "evaluate", "export", "verify", "package"]),
        (LORA, ["prepare", "train", "evaluate", "merge", "export", "verify", "package"]),
        ({"method": "lora"}, ["prepare", "train", "evaluate"]),
        (
            {"dataset": {"train": "rows.jsonl", "validation": None, "test": None}, "data_facts": without_validation()},
            ["prepare", "train"],
        ),
        (
            {"export": ["onnx", {"format": "onnx", "opset": 20}]},
            ["prepare", "train", "evaluate", "export-1", "verify-1", "package-1", "export-2", "verify-2", "package-2"],
        ),
    ],
)
def test_a_recipe_has_the_steps_that_it_needs(changes: dict[str, Any], steps: list[str]) -> None:
    assert [step.id for step in planned(**changes).steps] == steps


def test_every_step_comes_after_its_inputs() -> None:
    seen: set[str] = set()
    for step in planned(**LORA).steps:
        assert set(step.inputs) <= seen
        seen.add(step.id)


def test_equal_recipes_give_equal_bytes_whatever_the_order_of_keys() -> None:
    backwards = {key: LORA[key] for key in reversed(LORA)}
    assert planned(**LORA).text() == planned(**backwards).text()


def test_shorthand_and_whole_floats_reach_no_key() -> None:
    short = planned(method="lora", training={"epochs": 3, "learning_rate": 1}, metrics=["f1"])
    long = planned(method={"type": "lora"}, training={"epochs": 3.0, "learning_rate": 1.0}, metrics=[{"type": "f1"}])
    assert short.text() == long.text()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"description": "for people"}, set()),
        ({}, {"name": "other"}, set()),
        ({}, {"model": {"id": "elsewhere/model", "revision": "v2"}}, set()),
        ({}, {"training": {"micro_batch_size": 4}}, set()),
        ({}, {"training": {"gradient_checkpointing": True}}, set()),
        ({}, {"training": {"checkpoint_every": 7}}, set()),
        ({}, {"metrics": ["accuracy"]}, {"evaluate"}),
        ({}, {"training": {"epochs": 4}}, {"train", "evaluate"}),
        ({}, {"training": {"seed": 1}}, {"train", "evaluate"}),
        ({}, {"training": {"max_length": 32}}, {"prepare", "train", "evaluate"}),
        ({"export": ["onnx"]}, {"export": ["onnx"], "name": "other"}, {"package"}),
        ({"export": ["onnx"]}, {"export": [{"format": "onnx", "opset": 20}]}, {"export", "verify", "package"}),
        ({"export": ["onnx"]}, {"export": ["onnx"], "verify": {"rows": 10}}, {"verify", "package"}),
    ],
)
def test_a_change_reaches_the_keys_of_the_steps_that_it_changes(
    before: dict[str, Any], after: dict[str, Any], expected: set[str]
) -> None:
    assert changed(before, after) == expected


def test_another_content_of_the_data_changes_every_key() -> None:
    files = tuple(replace(file, sha256="b" * 64) for file in DATA.splits[0].rows.files)
    splits = tuple(replace(split, rows=replace(split.rows, files=files)) for split in DATA.splits)
    assert changed({}, {"data_facts": replace(DATA, splits=splits)}) == {"prepare", "train", "evaluate"}


def test_another_path_of_the_same_data_changes_no_key() -> None:
    files = tuple(replace(file, path="moved/rows.jsonl") for file in DATA.splits[0].rows.files)
    splits = tuple(replace(split, rows=replace(split.rows, files=files)) for split in DATA.splits)
    assert changed({}, {"data_facts": replace(DATA, splits=splits)}) == set()


def test_other_weights_of_the_model_leave_the_prepared_rows() -> None:
    model = replace(MODEL, files={**MODEL.files, "model.safetensors": "f" * 64})
    assert changed({}, {"model_facts": model}) == {"train", "evaluate"}


def test_equal_class_weights_give_equal_keys_however_they_are_written() -> None:
    def weighted(weights: object) -> dict[str, Any]:
        return {"training": {"loss": {"type": "cross-entropy", "class_weights": weights}}}

    assert changed({}, weighted({"good": 1})) == set()
    assert changed(weighted("balanced"), weighted({"bad": 800 / 400, "good": 800 / 1200})) == set()
    assert changed({}, weighted("balanced")) == {"train", "evaluate"}


def test_prepare_reads_the_tokenizer_and_config_alone_and_package_all_files() -> None:
    model = replace(MODEL, files={**MODEL.files, "tokenizer_config.json": "f" * 64})
    before: dict[str, Any] = {"export": ["onnx"]}
    steps = {step.id: step for step in planned(**before, model_facts=model).steps}
    assert sorted(steps["prepare"].tokenizer.files) == ["config.json", "tokenizer.json"]  # type: ignore[union-attr]
    assert "tokenizer_config.json" in steps["package"].tokenizer.files  # type: ignore[union-attr]
    assert "prepare" not in changed(before, {**before, "model_facts": model})


def test_evaluation_cadence_reaches_a_key_only_where_it_selects() -> None:
    every: dict[str, Any] = {"training": {"keep": "last", "evaluate_every": 5}}
    assert changed({"training": {"keep": "last"}}, every) == set()
    assert changed({}, {"training": {"evaluate_every": 5}}) == {"train", "evaluate"}


def test_the_positive_class_reaches_the_key_of_a_training_that_it_selects_for() -> None:
    def f1(positive: str) -> dict[str, Any]:
        return {"metrics": [{"type": "f1", "average": "binary", "positive": positive}]}

    assert changed(f1("good"), f1("bad")) == {"train", "evaluate"}
    found = selection_of(**f1("bad"))
    assert found is not None
    assert (found.metric, found.positive) == ("f1_binary", "bad")


def test_nothing_selects_without_validation_rows() -> None:
    assert selection_of(**NO_VALIDATION) is None
    assert train_of(planned(**NO_VALIDATION)).evaluate_every == 0


def test_keeping_the_last_selects_only_with_early_stopping() -> None:
    assert selection_of(training={"keep": "last"}) is None
    found = selection_of(training={"keep": "last", "early_stopping": {"patience": 2}})
    assert found is not None
    assert (found.patience, found.keep_best) == (2, False)


def test_a_loss_is_better_when_it_is_smaller() -> None:
    loss, accuracy = (
        selection_of(metrics=["accuracy"], training={"early_stopping": {"metric": metric}})
        for metric in ("loss", "accuracy")
    )
    assert loss is not None
    assert accuracy is not None
    assert (loss.greater_is_better, accuracy.greater_is_better) == (False, True)


def test_another_target_differs_only_where_precision_decides() -> None:
    cpu, cuda = json.loads(planned(**LORA).text()), json.loads(planned(target=CUDA, **LORA).text())
    assert (cpu.pop("target"), cuda.pop("target")) == ("cpu", "cuda")
    differing = [
        (step["id"], name)
        for step, other in zip(cpu["steps"], cuda["steps"], strict=True)
        for name in step
        if step[name] != other[name] and name != "key"
    ]
    assert differing == [("train", "precision")]
    assert [c["pointer"] for c, d in zip(cpu["choices"], cuda["choices"], strict=True) if c != d] == [
        "/training/precision"
    ]


@given(st.integers(2, 100_000))
def test_the_grid_of_lengths_rises_to_the_longest_and_pads_little(max_length: int) -> None:
    grid = length_grid(max_length)
    assert grid[-1] == max_length
    assert list(grid) == sorted(set(grid))
    for shorter, longer in zip((0, *grid), grid, strict=False):
        assert longer - shorter <= max(8, shorter // 4)


def test_the_grid_is_the_same_below_whatever_the_longest() -> None:
    assert length_grid(100) == (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100)
    assert length_grid(5) == (5,)
    assert set(length_grid(512)[:-1]) <= set(length_grid(4096))
