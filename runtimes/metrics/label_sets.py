"""Metrics of rows that may have several labels: each label is decided by itself."""

# N = rows, C = labels

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import AUROC, F1, Accuracy, Metric, Precision, Recall, name_of
from runtimes.metrics.averages import averaged, divide, ratios
from runtimes.metrics.decisions import positive_of
from runtimes.metrics.ranking import CHANCE, auroc

Has = npt.NDArray[np.bool_]
"""[N, C] which labels rows have, or were given."""


def score_label_sets(
    metrics: Sequence[Metric], truth: Has, given: Has, scores: npt.NDArray[np.floating[Any]], labels: Sequence[str]
) -> dict[str, float]:
    """Each metric by its name. `scores` [N, C]: of any scale, as each label's are ranked by themselves."""
    return {name_of(metric): _measure(metric, truth, given, scores, labels) for metric in metrics}


def _measure(
    metric: Metric, truth: Has, given: Has, scores: npt.NDArray[np.floating[Any]], labels: Sequence[str]
) -> float:
    match metric:
        case Accuracy():
            return divide((truth == given).all(axis=1).sum(), len(truth))
        case F1() | Precision() | Recall():
            counts = counts_of(truth, given)
            if metric.average == "binary":
                return float(ratios(metric.type, *counts)[positive_of(metric.positive, labels)])
            return averaged(metric.type, metric.average, *counts)
        case AUROC():
            return _auroc(metric, truth, scores, labels)
        case _:
            raise ValueError(f"{metric.type} is no metric of label sets")


def counts_of(truth: Has, given: Has) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """[C] each: how often a label was given rightly, given, and true."""
    return (truth & given).sum(axis=0), given.sum(axis=0), truth.sum(axis=0)


def _auroc(metric: AUROC, truth: Has, scores: npt.NDArray[np.floating[Any]], labels: Sequence[str]) -> float:
    found = scores.astype(np.float64)
    if metric.average == "binary":
        positive = positive_of(metric.positive, labels)
        return auroc(truth[:, positive], found[:, positive])
    counts = truth.sum(axis=0)
    told = [label for label, count in enumerate(counts) if 0 < count < len(truth)]  # others have nothing to rank
    if not told:
        return CHANCE
    areas = np.asarray([auroc(truth[:, label], found[:, label]) for label in told])
    weights = counts[told] if metric.average == "weighted" else np.ones(len(told))
    return divide(float(areas @ weights), float(weights.sum()))


def best_threshold(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating[Any]]) -> float | None:
    """The score above which to give a label for the best F1, the nearest to zero of equal ones; None without any truth.

    `truth`, `scores`: [N] of one label, the scores logits. Candidates lie half-way between neighbours.
    """
    if not truth.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    right, given = np.cumsum(truth[order]), np.arange(1, len(truth) + 1)
    f1 = 2 * right / (given + truth.sum())
    below = np.append(ranked[1:], ranked[-1] - 1.0)
    f1 = np.where(ranked > below, f1, -1.0)  # rows of equal scores are not told apart
    half_way = (ranked + below) / 2
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(half_way[best[np.abs(half_way[best]).argmin()]])
