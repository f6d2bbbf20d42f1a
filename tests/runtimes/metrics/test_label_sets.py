"""Metrics of label sets against hand-made cases and each label's own; thresholds against a search of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics import AUROC, F1, Accuracy, Matthews, Precision, Recall
from runtimes.metrics.label_sets import best_threshold, score_label_sets
from runtimes.metrics.ranking import auroc

LABELS = ("a", "b", "c")
TRUTH = np.asarray([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], bool)
GIVEN = np.asarray([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
SCORES = np.asarray([[2.0, -1.0, 0.0], [1.0, -2.0, 0.0], [-1.0, 1.0, 0.0], [-2.0, 2.0, 0.0]])


def test_the_figures_of_a_hand_made_case() -> None:
    metrics = (
        Accuracy(),
        Precision(average="micro"),
        Recall(average="micro"),
        F1(average="macro"),
        F1(average="weighted"),
    )
    found = score_label_sets(metrics, TRUTH, GIVEN, SCORES, LABELS)
    assert found == {
        "accuracy": 2 / 4,  # whole rows
        "precision_micro": 3 / 4,
        "recall_micro": 3 / 4,
        "f1_macro": (1 + 1 / 2) / 2,  # "c" neither stands in the rows nor was given
        "f1_weighted": (2 * 1 + 2 * 1 / 2) / 4,
    }


def test_scores_are_ranked_label_by_label() -> None:
    areas = [auroc(TRUTH[:, label], SCORES[:, label]) for label in range(2)]
    binary = AUROC(average="binary", positive="b")
    found = score_label_sets((AUROC(), binary), TRUTH, GIVEN, SCORES, LABELS)
    assert found == {"auroc_macro": pytest.approx(np.mean(areas)), "auroc_binary": areas[1]}


def test_a_metric_of_single_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="matthews is no metric of label sets"):
        score_label_sets((Matthews(),), TRUTH, GIVEN, SCORES, LABELS)


def f1_at(truth: np.ndarray, scores: np.ndarray, threshold: float) -> float:
    given = scores > threshold
    return float(2 * (truth & given).sum() / (truth.sum() + given.sum()))


@given(st.lists(st.tuples(st.booleans(), st.integers(-6, 6)), min_size=1, max_size=12))
def test_no_threshold_is_better_than_the_best(rows: list[tuple[bool, int]]) -> None:
    truth, scores = np.asarray([row[0] for row in rows]), np.asarray([row[1] for row in rows], np.float64)
    best = best_threshold(truth, scores)
    if best is None:
        assert not truth.any()
        return
    every = [f1_at(truth, scores, threshold) for threshold in np.arange(-8, 8, 0.5)]
    assert f1_at(truth, scores, best) == pytest.approx(max(every))
