"""Stages: each compiles as a recipe of its own, what is found about it has its place, and the plan is one graph."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compiler import methods
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic, RecipeError
from compiler.driver import Compiled, compile_recipe
from compiler.facts import LocalFacts
from compiler.loading import load, load_text, set_value
from compiler.placement import parse_target
from compiler.plan import Plan, Prepare, Train
from compiler.reading import read_stages
from compiler.tasks import Task, TextClassification, TextGeneration, TokenClassification, bind, left_by
from compiler.tasks.continued_pretraining import ContinuedPretraining
from compiler.tasks.question_answering import QuestionAnswering
from compiler.tasks.text_generation import ChatTemplate
from compiler.typed import members, tag
from tests.handmade import MODEL
from tests.small import write_without_framework

CPU = parse_target("cpu")
ROWS = {"train": "rows.jsonl"}
FIRST: dict[str, Any] = {"name": "one", "task": "text-classification", "dataset": ROWS, "method": "lora"}
SECOND: dict[str, Any] = {"name": "two", "task": "text-classification", "dataset": ROWS}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_without_framework(tmp_path / "project")


def write(project: Path, *stages: dict[str, Any], **changes: Any) -> Path:
    """A recipe of stages beside the project's own."""
    value = {"recipe": 1, "name": "staged", "model": "./model", "stages": stages, **changes}
    (project / "staged.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    return project / "staged.json"


def compiled(path: Path, *overrides: str) -> Compiled:
    return compile_recipe(load(path, overrides), LocalFacts(offline=True), CPU)


def planned(project: Path, *stages: dict[str, Any], **changes: Any) -> Plan:
    return compiled(write(project, *stages, **changes)).plan


def findings(project: Path, *stages: dict[str, Any], **changes: Any) -> list[tuple[str, str]]:
    """Code and pointer of each finding, in the order of the text."""
    with pytest.raises(RecipeError) as caught:
        planned(project, *stages, **changes)
    return [(found.code, found.pointer) for found in caught.value.diagnostics]


def texts(*stages: dict[str, Any], **changes: Any) -> list[Any]:
    """What each stage is as a recipe, read from a text."""
    value = {"recipe": 1, "name": "staged", "model": "org/model", "stages": stages, **changes}
    return [stage.recipe for stage in read_stages(load_text(json.dumps(value), "r.json"))]


# The language


def test_what_is_common_is_merged_below_each_stage() -> None:
    common = {"method": {"type": "lora", "rank": 4}, "training": {"epochs": 2, "seed": 5}}
    one, two = texts(
        {**FIRST, "method": {"dropout": 0.5}}, {**SECOND, "method": "full", "training": {"max_steps": 7}}, **common
    )
    assert one.method == methods.LoRA(rank=4, dropout=0.5)
    assert (one.training.epochs, one.training.max_steps, one.training.seed) == (2, None, 5)
    assert two.method == methods.Full()
    assert (two.training.epochs, two.training.max_steps, two.training.seed) == (None, 7, 5)
    assert (one.name, two.name) == ("staged", "staged")


def test_only_the_last_stage_is_exported() -> None:
    one, two = texts(FIRST, SECOND, export=["onnx"], verify={"rows": 5})
    assert (one.export, one.verify.rows) == ((), None)
    assert ([each.format for each in two.export], two.verify.rows) == (["onnx"], 5)


def test_a_value_is_set_inside_a_stage() -> None:
    document = load_text(json.dumps({"recipe": 1, "name": "s", "model": "m", "stages": [FIRST, SECOND]}), "r.json")
    for override in ("/stages/0/training/epochs=1", "/stages/1/method=head", "/stages/1/metrics/-=auroc"):
        document = set_value(document, override)
    one, two = (stage.recipe for stage in read_stages(document))
    assert (one.training.epochs, two.training.epochs) == (1, None)
    assert two.method == methods.Head()
    assert [metric.type for metric in two.metrics] == ["accuracy", "f1", "auroc"]
    assert one.metrics == ()


def test_an_item_stands_beside_the_metrics_that_all_stages_have() -> None:
    value = {"recipe": 1, "name": "s", "model": "m", "metrics": ["matthews"], "stages": [FIRST, SECOND]}
    document = set_value(load_text(json.dumps(value), "r.json"), "/stages/1/metrics/-=auroc")
    assert [[metric.type for metric in stage.recipe.metrics] for stage in read_stages(document)] == [
        ["matthews"],
        ["matthews", "auroc"],
    ]


def test_stages_come_from_a_base_and_their_paths_start_there(project: Path) -> None:
    base = write(project, FIRST, SECOND)
    (project / "inside").mkdir()
    path = project / "inside" / "r.json"
    path.write_text(json.dumps({"extends": f"../{base.name}", "name": "other"}), encoding="utf-8")
    plan = compiled(path).plan
    assert plan.name == "other"
    files = [file.path for step in plan.steps if isinstance(step, Prepare) for file in step.splits[0].files]
    assert files == ["../rows.jsonl", "../rows.jsonl"]


# The plan


def test_the_plan_is_one_graph_in_which_a_stage_starts_from_what_the_one_before_it_left(project: Path) -> None:
    plan = planned(project, FIRST, SECOND, {**SECOND, "name": "three", "method": "lora"}, export=["onnx"])
    assert plan.stages == ("one", "two", "three")
    assert {step.id: step.inputs for step in plan.steps} == {
        "prepare-one": (),
        "train-one": ("prepare-one",),
        "evaluate-one": ("prepare-one", "train-one"),
        "merge-one": ("train-one",),
        "prepare-two": (),
        "train-two": ("prepare-two", "merge-one"),
        "evaluate-two": ("prepare-two", "train-two"),
        "prepare-three": (),
        "train-three": ("prepare-three", "train-two"),
        "evaluate-three": ("prepare-three", "train-three"),
        "merge-three": ("train-three",),
        "export": ("merge-three",),
        "verify": ("prepare-three", "train-three", "merge-three", "export"),
        "package": ("prepare-three", "merge-three", "evaluate-three", "export", "verify"),
    }
    assert Plan.from_json(json.loads(plan.text())) == plan


def test_an_adapter_at_the_end_is_merged_only_for_an_export(project: Path) -> None:
    ids = [step.id for step in planned(project, FIRST, {**SECOND, "method": "lora"}).steps]
    assert [name for name in ids if name.startswith("merge")] == ["merge-one"]


def test_a_change_of_a_stage_changes_its_keys_and_those_after_it(project: Path) -> None:
    before = planned(project, FIRST, SECOND, export=["onnx"]).keys()
    second = planned(project, FIRST, {**SECOND, "training": {"seed": 1}}, export=["onnx"]).keys()
    changed = {name for name in before if before[name] != second[name]}
    assert changed == {"train-two", "evaluate-two", "export", "verify", "package"}
    first = planned(project, {**FIRST, "training": {"seed": 1}}, SECOND, export=["onnx"]).keys()
    changed = {name for name in before if before[name] != first[name]}
    assert changed == {*before} - {"prepare-one", "prepare-two"}


def test_names_are_outside_of_keys(project: Path) -> None:
    before = planned(project, FIRST, SECOND).keys()
    after = planned(project, {**FIRST, "name": "uno"}, {**SECOND, "name": "due"}).keys()
    assert [*before.values()] == [*after.values()]


def test_a_first_stage_is_the_recipe_that_it_would_be_alone(project: Path) -> None:
    (project / "alone.json").write_text(
        json.dumps({"recipe": 1, "name": "alone", "model": "./model", **{k: FIRST[k] for k in FIRST if k != "name"}})
    )
    alone = compiled(project / "alone.json").plan.keys()
    staged = planned(project, FIRST, SECOND).keys()
    assert alone == {name: staged[f"{name}-one"] for name in alone}


def test_choices_say_which_stage_they_are_of(project: Path) -> None:
    choices = planned(project, FIRST, SECOND).choices
    rates = [(c.pointer, c.value) for c in choices if c.pointer.endswith("learning_rate")]
    assert rates == [("/stages/0/training/learning_rate", 5e-4), ("/stages/1/training/learning_rate", 5e-5)]


def test_stages_are_computed_in_portions_of_their_own(project: Path) -> None:
    found = compiled(write(project, {**FIRST, "training": {"micro_batch_size": 2}}, SECOND))
    assert {name: placement.micro_batch_size for name, placement in found.placements.items()} == {"one": 2, "two": 32}


# What a stage leaves


def test_a_stage_keeps_the_head_that_the_one_before_it_left(project: Path) -> None:
    trains = {step.stage: step for step in planned(project, FIRST, SECOND).steps if isinstance(step, Train)}
    assert {name: step.keep_head for name, step in trains.items()} == {"one": False, "two": True}
    assert (trains["two"].model.id, trains["two"].model.files) == ("model-one", {})
    kept = Choice(pointer="/stages/1/model", value="head kept", reason="the model's own head has these labels")
    assert kept in planned(project, FIRST, SECOND).choices


@pytest.mark.parametrize(
    ("task", "labels", "token_labels", "architectures"),
    [
        (TextClassification(labels=("a", "b")), ("a", "b"), None, ()),
        (TokenClassification(labels=("O", "B-x")), None, ("O", "B-x"), ()),
        (QuestionAnswering(), None, None, ("ForQuestionAnswering",)),
        (ContinuedPretraining(objective="masked"), None, None, ("ForMaskedLM",)),
        (ContinuedPretraining(objective="causal"), None, None, ()),
    ],
)
def test_a_task_leaves_its_own_head(task: Any, labels: Any, token_labels: Any, architectures: Any) -> None:
    before = replace(MODEL, labels=("x",), token_labels=("y",), architectures=("BertForMaskedLM",), dtype="bfloat16")
    left = left_by(task, before)
    assert (left.labels, left.token_labels, left.architectures) == (labels, token_labels, architectures)
    assert left.dtype == "float32"
    assert left.shapes == before.shapes


@pytest.mark.parametrize("asked", ["auto", "model"])
def test_a_model_s_own_template_is_the_one_that_a_stage_before_gave_it(tmp_path: Path, asked: str) -> None:
    given = ChatTemplate(name="written", source="{{ messages[0].content }}", variables={"eos_token": "</s>"})
    before: list[Task] = [TextGeneration(template=given), ContinuedPretraining()]
    task = TextGeneration(template=ChatTemplate(name=asked, variables={"thinks": False}))
    found = bind(task, tmp_path / "tokenizer.json", before)
    assert isinstance(found, TextGeneration)
    assert (found.template.name, found.template.source) == ("model", given.source)
    assert found.template.variables == {"eos_token": "</s>", "thinks": False}


# Findings


def test_what_is_wrong_with_the_files_of_all_stages_is_said_at_once(project: Path) -> None:
    one = {**FIRST, "dataset": {"train": "none.jsonl"}}
    two = {**SECOND, "dataset": {"train": "rows.jsonl", "columns": {"text": "txt"}}}
    assert findings(project, one, two) == [
        ("R301", "/stages/0/dataset/train/path"),
        ("R304", "/stages/1/dataset/columns/text"),
    ]


def test_a_finding_about_a_common_value_names_the_stage(project: Path) -> None:
    path = write(project, {**FIRST, "method": "full"}, {**SECOND, "method": "lora"}, training={"max_length": 999})
    with pytest.raises(RecipeError) as caught:
        compiled(path)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R408", "/training/max_length")
    assert found.message.startswith('stage "one": the model takes at most 64 tokens')


def test_a_target_module_is_looked_for_in_each_stage(project: Path) -> None:
    wrong = {"type": "lora", "target_modules": ["qurey"]}
    assert findings(project, FIRST, {**SECOND, "method": wrong}) == [("R205", "/stages/1/method/target_modules/0")]


def test_held_out_rows_that_an_earlier_stage_was_trained_on_are_said_in_the_later_one(project: Path) -> None:
    """All 60 rows differ. The first stage trains on all of them; the second holds out half, the third as the second."""
    whole = {"train": "rows.jsonl", "validation": None, "test": None}
    half = {**whole, "test": {"fraction": 0.5}}
    three = {**SECOND, "name": "three", "dataset": half}
    path = write(project, {**FIRST, "dataset": whole}, {**SECOND, "dataset": half}, three)
    first, second = compiled(path).findings
    assert (first.code, first.severity, first.pointer) == ("R311", "warning", "/stages/1/dataset/test")
    assert first.message == '30 test rows of the stage "two" stand in train of the stage "one": the model has read them'
    assert (second.code, second.pointer) == ("R311", "/stages/2/dataset/test")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [lines[each.at.line - 1].strip() for each in (first, second)] == ['"test": {'] * 2


def test_rows_that_all_stages_hold_out_are_read_by_none(project: Path) -> None:
    drawn = {"train": "rows.jsonl", "validation": {"fraction": 0.2}, "test": {"fraction": 0.5}}
    path = write(project, {**FIRST, "dataset": drawn}, {**SECOND, "dataset": drawn})
    assert compiled(path).findings == ()


HEAD, FULL = {**FIRST, "method": "head"}, {**SECOND, "method": "full"}
NUMBERS = {"name": "three", "task": "text-regression", "dataset": {"train": "numbers.jsonl"}}


@pytest.mark.parametrize("settings", [{"rows": 5}, {}])
def test_what_is_of_the_last_stage_alone_is_read_in_it_or_nowhere(project: Path, settings: dict[str, Any]) -> None:
    assert findings(project, FIRST, SECOND, verify=settings) == [("R202", "/verify")]
    assert compiled(write(project, FIRST, SECOND, verify=settings, export=["onnx"])).findings == ()


def test_a_common_value_is_read_where_no_stage_says_it_otherwise() -> None:
    """The only stage that has the common balance is one of numbers; the other one's is its own."""
    own = {**SECOND, "training": {"balance": "weights"}}
    with pytest.raises(RecipeError) as caught:
        texts(NUMBERS, own, training={"balance": "oversample"})
    assert [(each.code, each.pointer) for each in caught.value.diagnostics] == [("R202", "/training/balance")]


def test_a_key_is_read_nowhere_where_another_stage_does_not_read_the_whole_around_it() -> None:
    writes = {"name": "two", "task": "text-generation", "dataset": ROWS, "metrics": ["exact-match"]}
    with pytest.raises(RecipeError) as caught:
        texts(FIRST, writes, generation={"max_new_tokens": 4, "top_p": 0.5})
    assert [(each.code, each.pointer) for each in caught.value.diagnostics] == [("R202", "/generation/top_p")]


@pytest.mark.parametrize("stages", [(HEAD, FULL), ({**FULL, "name": "one"}, {**HEAD, "name": "two"})])
@pytest.mark.parametrize("option", [{"layer_decay": 0.5}, {"unfreeze_every": 1}, {"head_lr_multiplier": 3.0}])
def test_a_common_key_is_read_where_one_stage_reads_it_as_its_model_is(
    project: Path, stages: tuple[dict[str, Any], ...], option: dict[str, Any]
) -> None:
    common = compiled(write(project, *stages, training=option))
    own = [{**stage, "training": option} if stage["method"] == "full" else stage for stage in stages]
    assert common.plan.keys() == compiled(write(project, *own)).plan.keys()


def test_a_common_key_that_no_stage_reads_is_said_once(project: Path) -> None:
    stages = ({**HEAD, "name": "one"}, {**HEAD, "name": "two"})
    with pytest.raises(RecipeError) as caught:
        planned(project, *stages, training={"layer_decay": 0.5})
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R202", "/training/layer_decay")
    assert found.message == 'nothing reads "layer_decay" with the method "head"'


def test_a_key_that_one_stage_s_task_and_another_s_model_do_not_read_is_read_nowhere(project: Path) -> None:
    (project / "model" / "tokenizer_config.json").write_text(json.dumps({"mask_token": "good"}), encoding="utf-8")
    one = {"name": "one", "task": "continued-pretraining", "dataset": ROWS}
    assert planned(project, one, HEAD | {"name": "two"}).stages == ("one", "two")
    assert findings(project, one, HEAD | {"name": "two"}, training={"head_lr_multiplier": 2.0}) == [
        ("R202", "/training/head_lr_multiplier")
    ]


def test_what_a_stage_does_not_read_has_no_effect_in_it(project: Path) -> None:
    rows = [{"text": f"good {number}", "target": number / 7} for number in range(60)]
    (project / "numbers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain = compiled(write(project, NUMBERS, SECOND))
    balanced = compiled(write(project, NUMBERS, SECOND, training={"balance": "oversample"}))
    assert [stage.resolved.training.draw for stage in balanced.stages] == ["every", "oversample"]
    assert balanced.plan.keys()["train-three"] == plain.plan.keys()["train-three"]


UNMERGED = [
    named[1]
    for owner in members(methods.Method)
    if (named := tag(owner)) and (module := sys.modules[owner.__module__]).SAVES == "adapter" and not module.MERGES
]


def misplaced(*stages: dict[str, Any]) -> list[Diagnostic]:
    """What is found about the order of stages."""
    try:
        texts(*stages)
    except RecipeError as error:
        return [each for each in error.diagnostics if each.code == "R240"]
    return []


@pytest.mark.parametrize("method", UNMERGED)
def test_a_method_that_is_not_merged_is_the_last_stage_s(method: str) -> None:
    [refused] = misplaced({**FIRST, "method": method}, SECOND)
    assert refused.pointer == "/stages/0/method"
    assert misplaced(FIRST, {**SECOND, "method": method}) == []


def test_new_weights_are_the_first_stage_s() -> None:
    [refused] = misplaced(FIRST, {**SECOND, "method": "scratch"})
    assert (refused.pointer, refused.hint) == ("/stages/1/method", "make it the first stage")
    assert misplaced({**FIRST, "method": "scratch"}, SECOND) == []
