"""Metrics as pure functions of a confusion matrix."""

# N = rows, C = classes

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np
import numpy.typing as npt

from compiler.metrics import F1, Accuracy, Matthews, Metric, Precision, Recall, name_of

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def confusion_matrix(targets: npt.NDArray[np.int64], decisions: npt.NDArray[np.int64], num_labels: int) -> Counts:
    """[C, C] how many rows of each label (first axis) were given each label (second axis)."""
    counts = np.bincount(targets * num_labels + decisions, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels).astype(np.int64)


def score(
    metrics: Sequence[Metric],
    targets: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    labels: Sequence[str],
    losses: npt.NDArray[np.floating] | None = None,
) -> dict[str, float]:
    """Each metric by its name, over rows [N] with scores [N, C]; with `losses` [N] also `loss`, their mean in nats.

    The decision is the label of the highest score, the first of equal ones.
    """
    matrix = confusion_matrix(targets, np.argmax(scores, axis=1), len(labels))
    found = {name_of(metric): measure(metric, matrix, labels) for metric in metrics}
    if losses is not None:
        found["loss"] = float(np.mean(losses, dtype=np.float64))
    return found


def measure(metric: Metric, matrix: Counts, labels: Sequence[str]) -> float:
    """One metric of a confusion matrix."""
    match metric:
        case Accuracy():
            return accuracy(matrix)
        case Matthews():
            return matthews(matrix)
        case F1() | Precision() | Recall():
            return _averaged(metric, matrix, labels)
        case _:
            assert_never(metric)


def accuracy(matrix: Counts) -> float:
    """Share of the rows on the diagonal; 0 without rows."""
    return _divide(np.trace(matrix), matrix.sum())


def matthews(matrix: Counts) -> float:
    """The correlation R_K of labels and decisions (Gorodkin 2004); 0 where either is constant."""
    total, right = float(matrix.sum()), float(np.trace(matrix))
    truth, given = matrix.sum(axis=1, dtype=np.float64), matrix.sum(axis=0, dtype=np.float64)
    spread = np.sqrt(total**2 - truth @ truth) * np.sqrt(total**2 - given @ given)
    return _divide(right * total - truth @ given, spread)


def _averaged(metric: F1 | Precision | Recall, matrix: Counts, labels: Sequence[str]) -> float:
    right, given, truth = np.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    match metric.average:
        case "micro":
            return float(_ratio(metric, right.sum()[None], given.sum()[None], truth.sum()[None])[0])
        case "binary":
            positive = len(labels) - 1 if metric.positive == "auto" else labels.index(metric.positive)
            return float(_ratio(metric, right, given, truth)[positive])
        case "weighted":
            return _divide(_ratio(metric, right, given, truth) @ truth, truth.sum())
        case "macro":
            # Labels that neither stand in the rows nor were given say nothing, and are left out.
            seen = (given + truth) > 0
            return _divide(_ratio(metric, right, given, truth)[seen].sum(), seen.sum())
        case _:
            assert_never(metric.average)


def _ratio(metric: F1 | Precision | Recall, right: Counts, given: Counts, truth: Counts) -> Floats:
    """The metric of each class; 0 where its denominator is."""
    match metric:
        case Precision():
            over, under = right, given
        case Recall():
            over, under = right, truth
        case F1():
            over, under = 2 * right, given + truth
    return np.divide(over, under, out=np.zeros(len(over)), where=under > 0)


def _divide(over: float, under: float) -> float:
    return float(over / under) if under else 0.0
