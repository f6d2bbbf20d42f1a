from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics import AUROC, Accuracy
from runtimes.metrics.ranking import auroc, score_ranking

LABELS = ("a", "b", "c")
TARGETS = np.asarray([0, 0, 1, 1, 2, 0])
# By hand, rows of the class against the others: a 8 of 9 pairs, b 4.5 of 8, c 5 of 5.
SCORES = np.asarray(
    [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.1, 0.7, 0.2], [0.5, 0.1, 0.4], [0.2, 0.3, 0.5], [0.6, 0.4, 0.0]], np.float32
)
rows = st.lists(st.tuples(st.booleans(), st.integers(-20, 20)), min_size=1, max_size=60)


def sides(pairs: list[tuple[bool, int]]):
    positive, scores = zip(*pairs, strict=True)
    return np.asarray(positive, np.bool_), np.asarray(scores, np.float64)


def test_equal_scores_count_half() -> None:
    # Pairs: 3 over 2 and 1; 2 over 1, equal to 2.
    positive, scores = np.asarray([True, True, False, False]), np.asarray([3.0, 2.0, 2.0, 1.0])
    assert auroc(positive, scores) == (2 + 1 + 0.5) / 4


@pytest.mark.parametrize(
    ("average", "expected"),
    [("macro", (8 / 9 + 4.5 / 8 + 1) / 3), ("weighted", (3 * 8 / 9 + 2 * 4.5 / 8 + 1) / 6), ("binary", 1.0)],
)
def test_classes_are_averaged_one_against_the_rest(average, expected: float) -> None:
    found = score_ranking((AUROC(average=average),), TARGETS, SCORES, LABELS)
    assert found == {f"auroc_{average}": pytest.approx(expected, abs=1e-12)}


def test_the_positive_class_can_be_named() -> None:
    found = score_ranking((AUROC(average="binary", positive="a"),), TARGETS, SCORES, LABELS)
    assert found == {"auroc_binary": pytest.approx(8 / 9, abs=1e-12)}


def test_of_two_classes_every_average_is_the_same() -> None:
    share = np.asarray([0.2, 0.7, 0.6, 0.7, 0.1])
    targets, scores = np.asarray([0, 1, 0, 0, 1]), np.stack([1 - share, share], axis=1)
    metrics = [AUROC(average="macro"), AUROC(average="weighted"), AUROC(average="binary")]
    # Pairs won: 0.7 over 0.2 and 0.6, half of 0.7; 0.1 over none.
    assert list(score_ranking(metrics, targets, scores, ("no", "yes")).values()) == pytest.approx([2.5 / 6] * 3)


def test_a_class_without_rows_has_no_part_in_an_average() -> None:
    targets, scores = TARGETS[[0, 2, 3]], SCORES[[0, 2, 3]]
    assert score_ranking((AUROC(),), targets, scores, LABELS) == {"auroc_macro": pytest.approx((1 + 0.75) / 2)}


@pytest.mark.parametrize("average", ["macro", "weighted", "binary"])
def test_rows_of_one_kind_are_ranked_by_chance(average) -> None:
    found = score_ranking((AUROC(average=average),), np.zeros(3, np.int64), np.eye(3), LABELS)
    assert list(found.values()) == [0.5]


@given(rows)
def test_it_is_the_share_of_pairs_that_are_in_order(pairs) -> None:
    positive, scores = sides(pairs)
    won = [(high > low) + (high == low) / 2 for high in scores[positive] for low in scores[~positive]]
    assert auroc(positive, scores) == pytest.approx(np.mean(won) if won else 0.5, abs=1e-12)


@given(rows)
def test_a_rising_function_of_the_scores_changes_nothing(pairs) -> None:
    positive, scores = sides(pairs)
    assert auroc(positive, scores) == auroc(positive, np.exp(scores / 3) + scores**3)


@given(rows)
def test_swapped_labels_and_negated_scores_each_turn_it_around(pairs) -> None:
    positive, scores = sides(pairs)
    assert auroc(~positive, scores) == pytest.approx(1 - auroc(positive, scores), abs=1e-12)
    assert auroc(positive, -scores) == pytest.approx(1 - auroc(positive, scores), abs=1e-12)


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="accuracy is no metric of scores"):
        score_ranking((Accuracy(),), TARGETS, SCORES, LABELS)
