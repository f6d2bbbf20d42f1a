"""Numbers as answers: losses, what the gate excuses, and what the report compares with."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.recipe import CrossEntropy, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from compiler.tasks import TextRegression
from runtimes.tasks import text_regression as task

TASK = TextRegression(mean=3.0, deviation=2.0)
TARGETS = np.asarray([1.0, 5.0, -2.0], np.float32)
OUTPUTS = np.asarray([[2.0], [5.0], [4.0]], np.float32)  # off by 1, 0 and 6: by 0.5, 0 and 3 deviations


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MeanSquaredError(), [0.25, 0.0, 9.0]),
        (MeanAbsoluteError(), [0.5, 0.0, 3.0]),
        (Huber(), [0.125, 0.0, 2.5]),
        (Huber(delta=0.25), [0.25 * (0.5 - 0.125), 0.0, 0.25 * (3.0 - 0.125)]),
    ],
)
def test_a_loss_counts_in_deviations(loss: Loss, expected: list[float]) -> None:
    assert task.losses(loss, TASK, TARGETS, OUTPUTS).tolist() == expected


def test_a_loss_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="cross-entropy is for labels"):
        task.losses(CrossEntropy(), TASK, TARGETS, OUTPUTS)


def test_the_baseline_is_the_mean_of_the_train_rows() -> None:
    name, outputs = task.baseline(TASK, np.asarray([1.0, 2.0, 6.0], np.float32), 4)
    assert (name, outputs.tolist()) == ("mean", [[3.0]] * 4)


def test_differences_within_the_tolerance_settle_on_the_source() -> None:
    source, other = np.asarray([[1.0], [2.0], [3.0]]), np.asarray([[1.05], [2.5], [2.91]])
    settled = task.settle(TASK, source, other, np.zeros(3, bool), 0.1)
    assert settled.tolist() == [[1.0], [2.5], [3.0]]
    assert task.settle(TASK, source, other[:, :0], np.zeros(3, bool), 0.1).shape == (3, 0)


def test_an_answer_is_the_number() -> None:
    outputs = np.asarray([[2.5]], np.float32)
    answer = task.answer(TASK, {"text": "a"}, outputs, None)  # type: ignore[arg-type]  # a number needs no tokenizer
    assert (answer, task.decision(TASK, outputs), task.line(answer)) == ({"value": 2.5}, None, "2.5000")


def test_a_configuration_that_speaks_of_labels_is_a_fault() -> None:
    assert task.name_faults(TASK, {"problem_type": "regression"}) == (1, ())
    [fault] = task.name_faults(TASK, {"problem_type": "single_label_classification"})[1]
    assert "single_label_classification, not regression" in fault
