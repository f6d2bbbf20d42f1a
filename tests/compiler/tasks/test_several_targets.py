"""text-regression with targets: what the compiler reads, finds and chooses of several numbers a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compiler.data.texts import BadValueError
from compiler.diagnostics import RecipeError
from compiler.facts import DataFacts, ValueFacts
from compiler.metrics import MAE, R2
from compiler.plan import Plan, Prepare, Train, identity
from compiler.tasks import TextRegression, columns_of, module_of, pointer_of, roles_of, text_regression
from compiler.typed import to_json
from tests.handmade import DATA, MODEL, planned, read, resolved

STARS = ValueFacts(mean=3.23456789, deviation=1.0000004, minimum=1.0, maximum=5.0)
LENGTH = ValueFacts(mean=40.0, deviation=20.0, minimum=3.0, maximum=90.0)
TASK: dict[str, Any] = {"type": "text-regression", "targets": ["stars", "length"]}


def facts(*values: ValueFacts) -> DataFacts:
    return DataFacts(splits=tuple(replace(split, label_counts={}, values=values) for split in DATA.splits), labels=())


NUMBERS = facts(STARS, LENGTH)


def regression(**changes: Any) -> Any:
    return resolved(data_facts=NUMBERS, **{"task": TASK, **changes})


def findings(**changes: Any) -> list[tuple[str, str]]:
    with pytest.raises(RecipeError) as caught:
        regression(**changes)
    return [(found.code, found.pointer) for found in caught.value.diagnostics]


def test_each_target_is_a_role_of_its_own() -> None:
    task = TextRegression(targets=("stars", "length"))
    assert roles_of(task) == {"text": "text", "text_pair": "text", "stars": "number", "length": "number"}
    assert roles_of(TextRegression()) == text_regression.COLUMNS
    assert columns_of(task, {"text": "review"}) == {"text": "review", "stars": "stars", "length": "length"}
    assert pointer_of(task, "length") == "/task/targets/1"
    assert pointer_of(task, "text") == "/dataset/columns/text"


def test_rows_are_read_with_a_number_for_each_target() -> None:
    task = TextRegression(targets=("stars", "length"))
    reader = module_of(task).reader(task, columns_of(task, {"text": "review"}))
    examples = [reader.read({"review": "a", "stars": n, "length": f"{10 * n}"}) for n in (1, 2, 4)]
    assert examples[2].row == {"text": "a", "stars": 4.0, "length": 40.0}
    targets = np.asarray([example.target for example in examples])
    stars, length = reader.values(targets[[2, 0]])
    assert (stars.mean, stars.deviation, stars.minimum, stars.maximum) == (2.5, 1.5, 1.0, 4.0)
    assert (length.mean, length.maximum) == (25.0, 40.0)
    assert reader.values(targets[:0]) == ()
    assert (reader.labels, reader.label_counts(targets), reader.classes(targets).tolist()) == ((), {}, [0, 0, 0])
    assert reader.given({"review": "a"}) == {"text": "a"}
    [asked, answered] = module_of(task).pieces(task, examples[0].row)
    assert (asked.text, answered.text) == ("a ", "stars 1.0, length 10.0")


@pytest.mark.parametrize("value", [None, "", "many", True, float("nan")])
def test_a_row_without_one_of_the_numbers_is_refused_with_its_column(value: object) -> None:
    task = TextRegression(targets=("stars", "length"))
    reader = module_of(task).reader(task, columns_of(task, {}))
    with pytest.raises(BadValueError, match='the column "length": expected a number'):
        reader.read({"text": "a", "stars": 1, "length": value})


def test_mean_and_deviation_are_those_of_each_target() -> None:
    found = regression()
    assert found.task == TextRegression(targets=("stars", "length"), mean=(3.23457, 40.0), deviation=(1.0, 20.0))
    chosen = {choice.pointer: choice for choice in found.choices}
    assert chosen["/task/mean"].value == (3.23457, 40.0)
    assert chosen["/model"].reason == "the head has 2 outputs, one for each of stars, length"
    assert found.columns == {"text": "text", "stars": "stars", "length": "length"}


def test_written_numbers_are_kept_for_all_or_for_each() -> None:
    found = regression(task={**TASK, "mean": [3, 40], "deviation": 2})
    assert (found.task.mean, found.task.deviation) == ((3.0, 40.0), 2.0)
    assert not {"/task/mean", "/task/deviation"} & {choice.pointer for choice in found.choices}


def test_a_metric_without_a_unit_chooses_the_checkpoint_where_none_is_named() -> None:
    def selected(**changes: Any) -> str:
        step = planned(data_facts=NUMBERS, task=TASK, **changes).step("train")
        assert isinstance(step, Train) and step.selection is not None
        return step.selection.metric

    assert regression().metrics[0] == R2()
    assert selected() == "r2"
    assert selected(metrics=["mae"]) == "mae"
    assert regression(metrics=["mae"]).metrics == (MAE(),)


def test_a_head_without_a_bias_takes_no_mean_off() -> None:
    decoder = replace(MODEL, model_type="llama", architecture="decoder")
    assert regression(model_facts=decoder).task.mean == (0.0, 0.0)
    assert regression(task={**TASK, "mean": [0, 0]}, model_facts=decoder).task.mean == (0.0, 0.0)
    assert findings(task={**TASK, "mean": [0, 2]}, model_facts=decoder) == [("R215", "/task/mean")]


def test_a_target_that_never_changes_is_named() -> None:
    constant = replace(LENGTH, minimum=7.0, maximum=7.0, mean=7.0, deviation=0.0)
    [found] = text_regression.check_data(read(task=TASK), facts(STARS, constant))
    assert (found.code, found.pointer) == ("R316", "/task/targets/1")
    assert found.message == 'all train rows have the target 7 in the column "length"'
    assert len(list(text_regression.check_data(read(task=TASK), facts(constant, constant)))) == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": {**TASK, "mean": [1, 2, 3]}}, [("R207", "/task/mean")]),
        ({"task": {**TASK, "deviation": [1]}}, [("R207", "/task/deviation")]),
        ({"task": {"type": "text-regression", "mean": [1, 2]}}, [("R207", "/task/mean")]),
        ({"task": {**TASK, "targets": ["stars", "stars"]}}, [("R203", "/task/targets/1")]),
        ({"task": {**TASK, "targets": ["text_pair", "stars"]}}, [("R216", "/task/targets/0")]),
        ({"dataset": {"train": "rows.jsonl", "columns": {"text": "stars"}}}, [("R216", "/task/targets/0")]),
        ({"dataset": {"train": "rows.jsonl", "columns": {"target": "x"}}}, [("R202", "/dataset/columns/target")]),
    ],
)
def test_what_does_not_fit_together_is_named_by_code_and_place(changes: Any, expected: list[tuple[str, str]]) -> None:
    assert findings(**changes) == expected


def test_where_the_targets_lie_is_said_of_each() -> None:
    assert text_regression.summary(NUMBERS) == "targets from 1 to 5, from 3 to 90"


def test_a_plan_of_one_target_does_not_speak_of_several() -> None:
    """So that its keys are those of plans from before there were several."""
    one = TextRegression(mean=1.0, deviation=2.0)
    assert to_json(one) == identity(one) == {"type": "text-regression", "mean": 1.0, "deviation": 2.0}
    several = replace(one, targets=("stars",))
    assert to_json(several)["targets"] == identity(several)["targets"] == ["stars"]


def test_a_plan_of_several_targets_survives_being_a_text() -> None:
    import json

    plan = planned(data_facts=NUMBERS, task=TASK)
    again = Plan.from_json(json.loads(plan.text()))
    assert again == plan
    step = again.step("prepare")
    assert isinstance(step, Prepare)
    assert step.task == TextRegression(targets=("stars", "length"), mean=(3.23457, 40.0), deviation=(1.0, 20.0))
    other = planned(data_facts=NUMBERS, task={**TASK, "targets": ["length", "stars"]})
    assert other.keys()["prepare"] != plan.keys()["prepare"]
