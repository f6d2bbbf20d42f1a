"""Metrics of decisions: functions of a confusion matrix."""

# N = rows, C = classes

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from compiler.metrics import F1, Accuracy, Matthews, Metric, Precision, Recall, name_of
from runtimes.metrics.averages import Counts, averaged, divide, ratios


def confusion_matrix(targets: npt.NDArray[np.int64], decisions: npt.NDArray[np.int64], num_labels: int) -> Counts:
    """[C, C] how many rows of each label (first axis) were given each label (second axis)."""
    counts = np.bincount(targets * num_labels + decisions, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels).astype(np.int64)


def score_decisions(
    metrics: Sequence[Metric],
    targets: npt.NDArray[np.int64],
    decisions: npt.NDArray[np.int64],
    labels: Sequence[str],
) -> dict[str, float]:
    """Each metric by its name, over the label numbers [N] that rows have and that they were given."""
    matrix = confusion_matrix(targets, decisions, len(labels))
    return {name_of(metric): measure(metric, matrix, labels) for metric in metrics}


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
            raise ValueError(f"{metric.type} is no metric of decisions")


def accuracy(matrix: Counts) -> float:
    """Share of the rows on the diagonal; 0 without rows."""
    return divide(np.trace(matrix), matrix.sum())


def matthews(matrix: Counts) -> float:
    """The correlation R_K of labels and decisions (Gorodkin 2004); 0 where either is constant."""
    total, right = float(matrix.sum()), float(np.trace(matrix))
    truth, given = matrix.sum(axis=1, dtype=np.float64), matrix.sum(axis=0, dtype=np.float64)
    spread = np.sqrt(total**2 - truth @ truth) * np.sqrt(total**2 - given @ given)
    return divide(right * total - truth @ given, spread)


def _averaged(metric: F1 | Precision | Recall, matrix: Counts, labels: Sequence[str]) -> float:
    right, given, truth = np.diagonal(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    if metric.average == "binary":
        return float(ratios(metric.type, right, given, truth)[positive_of(metric.positive, labels)])
    return averaged(metric.type, metric.average, right, given, truth)


def positive_of(positive: str, labels: Sequence[str]) -> int:
    """The number of the positive class: the last label's where none is named."""
    return len(labels) - 1 if positive == "auto" else labels.index(positive)
