"""Metrics of how scores rank rows."""

# N = rows, C = classes

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import AUROC, Metric, name_of
from runtimes.metrics.averages import Floats, divide
from runtimes.metrics.decisions import positive_of
from runtimes.metrics.values import ranks

CHANCE = 0.5


def score_ranking(
    metrics: Sequence[Metric],
    targets: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating[Any]],
    labels: Sequence[str],
) -> dict[str, float]:
    """Each metric by its name, over the label numbers [N] that rows have and the scores [N, C] that they were given.

    Scores compare rows, so they are probabilities: a logit says nothing without the others of its row.
    """
    found = scores.astype(np.float64)
    return {name_of(metric): measure_ranking(metric, targets, found, labels) for metric in metrics}


def measure_ranking(metric: Metric, targets: npt.NDArray[np.int64], scores: Floats, labels: Sequence[str]) -> float:
    """One metric of scores [N, C]."""
    if not isinstance(metric, AUROC):
        raise ValueError(f"{metric.type} is no metric of scores")
    if metric.average == "binary":
        positive = positive_of(metric.positive, labels)
        return auroc(targets == positive, scores[:, positive])
    counts = np.bincount(targets, minlength=len(labels))
    told = [label for label, count in enumerate(counts) if 0 < count < len(targets)]  # others have nothing to rank
    if not told:
        return CHANCE
    areas = np.asarray([auroc(targets == label, scores[:, label]) for label in told])
    weights = counts[told] if metric.average == "weighted" else np.ones(len(told))
    return divide(areas @ weights, weights.sum())


def auroc(positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The area under the ROC curve; 0.5 where rows are all of one kind.

    It is the share of pairs of a positive and another row in which the positive one scores higher, equal scores
    counting half: Mann and Whitney's U (1947), from the sum of the positive rows' ranks.
    """
    num_positive = int(positive.sum())
    pairs = num_positive * (len(positive) - num_positive)
    if not pairs:
        return CHANCE
    above = float(ranks(scores)[positive].sum()) - num_positive * (num_positive + 1) / 2
    return above / pairs
