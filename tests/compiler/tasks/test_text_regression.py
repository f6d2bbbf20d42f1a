"""text-regression: what the compiler reads, finds and chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compiler.data.texts import BadValueError, number_of
from compiler.diagnostics import RecipeError
from compiler.facts import DataFacts, ValueFacts
from compiler.plan import Train
from compiler.recipe import MeanSquaredError
from compiler.tasks import TextRegression
from tests.handmade import DATA, MODEL, planned, resolved

VALUES = ValueFacts(mean=1.23456789, deviation=2.0000004, minimum=-4.0, maximum=4.0)
NUMBERS = DataFacts(
    splits=tuple(replace(split, label_counts={}, values=(VALUES,)) for split in DATA.splits),
    labels=(),
)


def regression(**changes: Any) -> Any:
    return resolved(data_facts=NUMBERS, **{"task": "text-regression", **changes})


def test_mean_and_deviation_are_those_of_the_train_rows_to_six_digits() -> None:
    found = regression()
    assert found.task == TextRegression(mean=1.23457, deviation=2.0)
    reasons = {choice.pointer: choice.reason for choice in found.choices}
    assert reasons["/task/mean"] == "the mean of the train rows"
    assert found.training.loss == MeanSquaredError()
    assert not found.keep_head


def test_written_numbers_are_not_chosen_again() -> None:
    found = regression(task={"type": "text-regression", "mean": 2, "deviation": 5})
    assert found.task == TextRegression(mean=2.0, deviation=5.0)
    assert not {"/task/mean", "/task/deviation"} & {choice.pointer for choice in found.choices}


def test_a_head_without_a_bias_takes_no_mean_off() -> None:
    found = regression(model_facts=replace(MODEL, model_type="llama", architecture="decoder"))
    assert found.task == TextRegression(mean=0.0, deviation=2.0)
    [choice] = [choice for choice in found.choices if choice.pointer == "/task/mean"]
    assert choice.reason == "the head of llama has no bias that it could be put on"


def test_a_mean_that_has_no_bias_to_go_into_is_an_error() -> None:
    decoder = replace(MODEL, model_type="llama", architecture="decoder")
    with pytest.raises(RecipeError) as caught:
        regression(task={"type": "text-regression", "mean": 3}, model_facts=decoder)
    [found] = caught.value.diagnostics
    assert (found.code, found.pointer) == ("R215", "/task/mean")
    assert regression(task={"type": "text-regression", "mean": 0}, model_facts=decoder).task.mean == 0.0


def test_less_error_is_better_when_checkpoints_are_compared() -> None:
    def greater(metric: str) -> bool:
        step = planned(data_facts=NUMBERS, task="text-regression", metrics=[metric]).step("train")
        assert isinstance(step, Train) and step.selection is not None
        return step.selection.greater_is_better

    assert [greater(metric) for metric in ("mse", "rmse", "mae", "pearson", "r2")] == [False, False, False, True, True]


def test_targets_that_are_all_equal_are_an_error() -> None:
    from compiler.tasks import text_regression
    from tests.handmade import read

    constant = replace(VALUES, minimum=3.0, maximum=3.0, mean=3.0, deviation=0.0)
    data = replace(NUMBERS, splits=tuple(replace(split, values=(constant,)) for split in NUMBERS.splits))
    [found] = text_regression.check_data(read(task="text-regression"), data)
    assert (found.code, found.pointer) == ("R316", "/dataset/columns/target")
    assert "all train rows have the target 3" in found.message


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1.0), (-2.5, -2.5), ("3", 3.0), (" -4.5e1 ", -45.0), (".5", 0.5), ("+7.", 7.0)]
)
def test_numbers_are_read_as_json_and_csv_write_them(value: object, number: float) -> None:
    assert number_of({"stars": value}, "stars") == number


@pytest.mark.parametrize(
    "value", [True, None, "", "five", "1,5", "nan", float("nan"), float("inf"), 10**400, "1e99", [1]]
)
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(BadValueError, match=r'the column "stars": expected a number'):
        number_of({"stars": value}, "stars")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0,50", 'the text "0,50"'),
        ("3%", 'the text "3%"'),
        ("x" * 99, f'the text "{"x" * 40}..."'),
        ("", "an empty string"),
    ],
)
def test_a_text_that_is_no_number_is_shown(value: str, found: str) -> None:
    with pytest.raises(BadValueError) as caught:
        number_of({"stars": value}, "stars")
    assert str(caught.value) == f'the column "stars": expected a number, found {found}'


def test_a_method_that_freezes_everything_is_still_named() -> None:
    with pytest.raises(RecipeError) as caught:
        regression(method={"type": "freeze", "layers": 6})
    assert [found.code for found in caught.value.diagnostics] == ["R204"]
