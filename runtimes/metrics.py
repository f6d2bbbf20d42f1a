"""Metrics as pure functions: of a confusion matrix, and of numbers."""

# N = rows, C = classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from compiler.metrics import (
    F1,
    MAE,
    MSE,
    R2,
    RMSE,
    Accuracy,
    Matthews,
    Metric,
    Pearson,
    Precision,
    Recall,
    Spearman,
    name_of,
)

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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


def score_values(
    metrics: Sequence[Metric], targets: npt.NDArray[np.floating[Any]], values: npt.NDArray[np.floating[Any]]
) -> dict[str, float]:
    """Each metric by its name, over the numbers [N] that rows have and that they were given."""
    true, given = targets.astype(np.float64), values.astype(np.float64)
    return {name_of(metric): measure_values(metric, true, given) for metric in metrics}


def measure_values(metric: Metric, targets: Floats, values: Floats) -> float:
    """One metric of numbers [N]."""
    away = values - targets
    match metric:
        case MSE():
            return float(np.mean(away**2))
        case RMSE():
            return float(np.sqrt(np.mean(away**2)))
        case MAE():
            return float(np.mean(np.abs(away)))
        case Pearson():
            return correlation(targets, values)
        case Spearman():
            return correlation(ranks(targets), ranks(values))
        case R2():
            spread = float(np.sum((targets - targets.mean()) ** 2))
            return 1.0 - float(np.sum(away**2)) / spread if spread else 0.0
        case _:
            raise ValueError(f"{metric.type} is no metric of numbers")


def correlation(one: Floats, other: Floats) -> float:
    """Pearson's correlation; 0 where either is constant."""
    left, right = one - one.mean(), other - other.mean()
    return _divide(left @ right, float(np.sqrt(left @ left) * np.sqrt(right @ right)))


def ranks(values: Floats) -> Floats:
    """[N] the rank of each value, from 1; equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[place]


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
