from __future__ import annotations

import math

import numpy as np
import pytest

from compiler.metrics import MAE, MSE, R2, RMSE, Accuracy, Pearson, Spearman
from runtimes.metrics.values import ranks, score_values


# By hand: differences 1, -1, 0, 2; sums of squares about the means 5 and 14, of products 7; ranks 2, 1, 3, 4.
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (MSE(), 6 / 4),
        (RMSE(), math.sqrt(6 / 4)),
        (MAE(), 4 / 4),
        (R2(), 1 - 6 / 5),
        (Pearson(), 7 / math.sqrt(5 * 14)),
        (Spearman(), 1 - 6 * 2 / (4 * (16 - 1))),
    ],
)
def test_metrics_of_numbers_are_what_they_are_by_hand(metric, expected: float) -> None:
    targets, values = np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([2.0, 1.0, 3.0, 6.0])
    assert score_values((metric,), targets, values) == {metric.type: pytest.approx(expected, abs=1e-12)}


def test_equal_numbers_share_the_mean_of_their_ranks() -> None:
    assert ranks(np.asarray([5.0, 1.0, 5.0, 7.0, 5.0])).tolist() == [3.0, 1.0, 3.0, 5.0, 3.0]


def test_a_constant_answer_correlates_with_nothing() -> None:
    found = score_values((Pearson(), Spearman(), R2()), np.asarray([1.0, 2.0, 3.0]), np.full(3, 2.0))
    assert found == {"pearson": 0.0, "spearman": 0.0, "r2": 0.0}


def test_constant_targets_leave_no_variance_to_explain() -> None:
    assert score_values((R2(),), np.full(4, 2.0), np.asarray([0.0, 9.0, 5.0, 1.0])) == {"r2": 0.0}


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is no metric of numbers"):
        score_values((Accuracy(),), np.zeros(1), np.zeros(1))
