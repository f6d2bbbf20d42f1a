"""Several tasks: each is checked and planned as if it were alone, and what they do together is said once."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the tiny model is made with torch")

from compiler.diagnostics import RecipeError
from compiler.driver import Compiled, compile_recipe
from compiler.loading import load
from compiler.placement import parse_target
from compiler.plan import Evaluate, ExportTogether, PackageTogether, Plan, Prepare, TrainTogether, VerifyExport
from compiler.tasks.multi_task import Proportional, RoundRobin, Temperature
from compiler.together import apportioned, turns_of
from tests.several import FACTS, SENTIMENT, VALENCE, several, write_several

FILLED = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5000), min_size=2)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_several(tmp_path_factory.mktemp("several") / "project")


def compiled(project: Path, **recipe: Any) -> Compiled:
    path = project / "other.json"
    path.write_text(json.dumps(several(**recipe)), encoding="utf-8")
    return compile_recipe(load(path), FACTS, parse_target("cpu"))


def train_of(plan: Plan) -> TrainTogether:
    step = plan.step("train")
    assert isinstance(step, TrainTogether)
    return step


# --- how often each task has its turn


@given(FILLED)
def test_in_proportion_each_task_has_as_many_steps_as_its_rows_fill(filled: dict[str, int]) -> None:
    assert turns_of(Proportional(), filled) == filled


@given(FILLED)
def test_a_temperature_of_one_is_in_proportion(filled: dict[str, int]) -> None:
    assert turns_of(Temperature(temperature=1.0), filled) == filled


@given(FILLED)
def test_in_turn_each_has_as_many_steps_and_no_row_is_lost_of_all(filled: dict[str, int]) -> None:
    [each] = set(turns_of(RoundRobin(), filled).values())
    assert each == ceil(sum(filled.values()) / len(filled))


def test_a_temperature_takes_the_root_of_the_shares() -> None:
    # 900 and 100 batches: square roots 30 and 10, so 3/4 and 1/4 of 1,000 steps; at 100 nearly equal.
    assert turns_of(Temperature(temperature=2.0), {"a": 900, "b": 100}) == {"a": 750, "b": 250}
    assert turns_of(Temperature(temperature=100.0), {"a": 900, "b": 100}) == {"a": 505, "b": 495}


@given(FILLED, st.floats(1.0, 100.0))
def test_a_temperature_keeps_the_length_of_an_epoch_and_leaves_no_task_out(
    filled: dict[str, int], temperature: float
) -> None:
    found = turns_of(Temperature(temperature=temperature), filled)
    assert min(found.values()) >= 1
    assert sum(filled.values()) <= sum(found.values()) <= sum(filled.values()) + len(filled)


def test_largest_remainders_go_to_the_first_of_equal_ones() -> None:
    assert apportioned(4, {"a": 1.0, "b": 1.0, "c": 1.0}) == {"a": 2, "b": 1, "c": 1}


# --- the plan


def test_the_plan_has_each_task_s_own_steps_and_one_of_what_they_do_together(project: Path) -> None:
    plan = compiled(project, method={"type": "lora", "rank": 4}).plan
    assert [step.id for step in plan.steps] == [
        "prepare-sentiment",
        "prepare-valence",
        "train",
        "evaluate-sentiment",
        "evaluate-valence",
        "merge",
        "export",
        "verify-sentiment",
        "verify-valence",
        "package",
    ]
    kinds = {step.id: type(step) for step in plan.steps}
    assert kinds["prepare-valence"] is Prepare
    assert kinds["evaluate-valence"] is Evaluate
    assert kinds["export"] is ExportTogether
    verify = plan.step("verify-valence")
    assert isinstance(verify, VerifyExport)
    assert (verify.part, verify.inputs) == ("valence", ("prepare-valence", "train", "merge", "export"))
    assert Plan.from_json(json.loads(plan.text())) == plan


def test_a_plan_of_a_file_is_in_the_order_of_the_one_that_was_written(project: Path) -> None:
    """What is drawn for the steps of an epoch depends on it."""
    parts = {"valence": VALENCE, "sentiment": SENTIMENT}
    plan = compiled(project, parts=parts).plan
    again = Plan.from_json(json.loads(plan.text()))
    assert [*train_of(again).parts] == [*train_of(plan).parts] == ["sentiment", "valence"]
    assert again.keys() == compiled(project).plan.keys()


def test_another_meaning_of_what_is_done_together_is_another_key(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from compiler import plan as plan_module

    plan = compiled(project).plan
    before = plan.keys()
    for kind, step in (("train-together", "train"), ("export-together", "export"), ("package-together", "package")):
        monkeypatch.setattr(plan_module, "SEMANTICS", {**plan_module.SEMANTICS, kind: 99})
        assert plan.keys()[step] != before[step]


def test_rows_are_prepared_as_for_the_task_alone(project: Path) -> None:
    """So a run of both finds what a run of one has prepared."""
    alone = {"recipe": 1, "name": "alone", "model": "./model", **{k: SENTIMENT[k] for k in ("task", "dataset")}}
    together = compiled(project, training={"max_length": 32})
    (project / "alone.json").write_text(json.dumps({**alone, "training": {"max_length": 32}}))
    single = compile_recipe(load(project / "alone.json"), FACTS, parse_target("cpu"))
    assert single.plan.keys()["prepare"] == together.plan.keys()["prepare-sentiment"]


def test_epochs_warmup_and_length_are_those_of_all_rows(project: Path) -> None:
    made = compiled(project, training={"epochs": 2, "batch_size": 16})
    step = train_of(made.plan)
    # 210 rows of 300 and 84 of 120, in batches of 16.
    assert {name: turns.steps for name, turns in step.turns.items()} == {"sentiment": 14, "valence": 6}
    assert {part.num_steps for part in step.parts.values()} == {40}
    assert {part.schedule.warmup_steps for part in step.parts.values()} == {4}
    assert {part.evaluate_every for part in step.parts.values()} == {20}
    assert len({part.lengths for part in step.parts.values()}) == 1
    prepares = [made.plan.step(name) for name in step.inputs]
    assert len({prepare.max_length for prepare in prepares if isinstance(prepare, Prepare)}) == 1


def test_weights_and_what_is_learnt_of_them_are_in_the_plan(project: Path) -> None:
    parts = {"sentiment": {**SENTIMENT, "weight": 0.5}, "valence": VALENCE}
    step = train_of(compiled(project, parts=parts, task={"loss_weights": "uncertainty"}).plan)
    assert (step.turns["sentiment"].weight, step.turns["sentiment"].share) == (0.5, 1.0)
    assert (step.turns["valence"].weight, step.turns["valence"].share) == (1.0, 0.5)
    assert step.variance_rate == 0.02
    assert train_of(compiled(project).plan).variance_rate == 0.0


def test_checkpoints_are_chosen_by_the_loss_of_all(project: Path) -> None:
    stopping = {"training": {"early_stopping": {"patience": 2}}}
    for part in train_of(compiled(project, **stopping).plan).parts.values():
        assert part.selection is not None
        assert (part.selection.metric, part.selection.greater_is_better, part.selection.patience) == ("loss", False, 2)
    held = {name: {**part, "dataset": {**part["dataset"], "validation": None}} for name, part in _parts().items()}
    assert {part.selection for part in train_of(compiled(project, parts=held).plan).parts.values()} == {None}


def _parts() -> dict[str, dict[str, Any]]:
    return {"sentiment": SENTIMENT, "valence": VALENCE}


def test_choices_point_into_the_task_that_they_are_of(project: Path) -> None:
    pointers = [choice.pointer for choice in compiled(project).plan.choices]
    assert "/task/tasks/sentiment/task/labels" in pointers
    assert "/task/tasks/valence/task/mean" in pointers
    assert pointers.count("/training/weight_decay") == 1


def test_a_pointer_sets_what_stands_in_a_task(project: Path) -> None:
    document = load(project / "recipe.json", ["/task/tasks/valence/loss=huber", "/task/sampling=round-robin"])
    step = train_of(compile_recipe(document, FACTS, parse_target("cpu")).plan)
    assert step.parts["valence"].loss.type == "huber"
    assert step.rotates


# --- findings about rows and models


def test_faults_of_all_tasks_rows_come_at_once_each_with_its_place(project: Path) -> None:
    parts = {
        "sentiment": {**SENTIMENT, "dataset": {**SENTIMENT["dataset"], "columns": {"text": "snipet"}}},
        "valence": {**VALENCE, "dataset": {**VALENCE["dataset"], "train": "nowhere.jsonl"}},
    }
    with pytest.raises(RecipeError) as caught:
        compiled(project, parts=parts)
    found = {(each.code, each.pointer) for each in caught.value.diagnostics}
    assert ("R304", "/task/tasks/sentiment/dataset/columns/text") in found
    assert ("R301", "/task/tasks/valence/dataset/train/path") in found


def test_held_out_rows_that_another_task_is_trained_on_are_said(project: Path) -> None:
    """The splits of a stratified and of another draw differ; the same draw gives the same rows."""
    rows = [json.loads(line) for line in (project / "rated.jsonl").read_text().splitlines()]
    parts = {
        "sentiment": {
            **SENTIMENT,
            "dataset": {**SENTIMENT["dataset"], "train": "rated.jsonl", "test": {"fraction": 0.3, "seed": 5}},
        },
        "valence": {**VALENCE, "dataset": {**VALENCE["dataset"], "test": {"fraction": 0.3, "seed": 6}}},
    }
    assert "sentiment" in rows[0]
    found = [each for each in compiled(project, parts=parts).findings if each.code == "R311"]
    assert {each.pointer for each in found} >= {
        "/task/tasks/sentiment/dataset/test",
        "/task/tasks/valence/dataset/test",
    }
    assert compiled(project).findings == ()


def test_a_decoder_is_no_trunk(project: Path) -> None:
    from tests.tiny import save_decoder

    save_decoder(project / "decoder")
    with pytest.raises(RecipeError) as caught:
        compiled(project, model="./decoder")
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R410", "/model/id")


def test_a_package_names_each_task_s_columns(project: Path) -> None:
    step = compiled(project).plan.step("package")
    assert isinstance(step, PackageTogether)
    assert step.parts["valence"].columns == {"text": "snippet", "target": "rating"}
