from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics import F1, MSE, Accuracy, Matthews, Precision, Recall
from runtimes.metrics.decisions import confusion_matrix, measure, score_decisions

LABELS = ("a", "b", "c")
TARGETS = np.asarray([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
GIVEN = np.asarray([0, 0, 0, 1, 1, 1, 2, 2, 0, 2])
MATRIX = confusion_matrix(TARGETS, GIVEN, 3)


def test_the_confusion_matrix_has_labels_down_and_decisions_across() -> None:
    assert MATRIX.tolist() == [[3, 1, 0], [0, 2, 1], [1, 0, 2]]
    assert MATRIX.dtype == np.int64


# By hand: right 3, 2, 2; given 4, 3, 3; true 4, 3, 3.
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (Accuracy(), 7 / 10),
        (Precision(), (3 / 4 + 2 / 3 + 2 / 3) / 3),
        (Recall(), (3 / 4 + 2 / 3 + 2 / 3) / 3),
        (F1(), (6 / 8 + 4 / 6 + 4 / 6) / 3),
        (F1(average="micro"), 7 / 10),
        (Precision(average="micro"), 7 / 10),
        (F1(average="weighted"), (4 * 6 / 8 + 3 * 4 / 6 + 3 * 4 / 6) / 10),
        (Recall(average="weighted"), 7 / 10),
        (Precision(average="binary", positive="a"), 3 / 4),
        (Recall(average="binary"), 2 / 3),
        (Matthews(), (7 * 10 - (16 + 9 + 9)) / (100 - 34)),
    ],
)
def test_metrics_are_what_they_are_by_hand(metric, expected: float) -> None:
    assert measure(metric, MATRIX, LABELS) == pytest.approx(expected, abs=1e-12)


def test_matthews_of_two_classes_is_the_phi_coefficient() -> None:
    matrix = np.asarray([[6, 2], [1, 3]])
    expected = (6 * 3 - 2 * 1) / math.sqrt(8 * 4 * 7 * 5)
    assert measure(Matthews(), matrix, ("no", "yes")) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [Accuracy(), F1(), F1(average="weighted"), F1(average="binary"), Matthews()])
def test_nothing_to_divide_by_counts_as_zero(metric) -> None:
    assert measure(metric, np.zeros((2, 2), np.int64), ("no", "yes")) == 0.0


def test_a_label_that_nothing_has_is_left_out_of_a_macro_average() -> None:
    matrix = np.asarray([[2, 0, 0], [0, 2, 0], [0, 0, 0]])
    assert measure(F1(), matrix, LABELS) == 1.0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_every_metric_stays_in_its_range(pairs) -> None:
    targets, given_labels = (np.asarray(side) for side in zip(*pairs, strict=True))
    matrix = confusion_matrix(targets, given_labels, 3)
    assert matrix.sum() == len(pairs)
    for metric in (Accuracy(), F1(), Precision(average="weighted"), Recall(average="micro")):
        assert 0.0 <= measure(metric, matrix, LABELS) <= 1.0
    assert -1.0 - 1e-12 <= measure(Matthews(), matrix, LABELS) <= 1.0 + 1e-12


def test_metrics_are_listed_by_their_names() -> None:
    found = score_decisions((Accuracy(), F1(average="micro")), TARGETS, GIVEN, LABELS)
    assert found == {"accuracy": pytest.approx(0.7), "f1_micro": pytest.approx(0.7)}


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="mse is no metric of decisions"):
        score_decisions((MSE(),), TARGETS, GIVEN, LABELS)
