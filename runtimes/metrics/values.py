"""Metrics of numbers."""

# N = rows

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import MAE, MSE, R2, RMSE, Metric, Pearson, Spearman, name_of
from runtimes.metrics.averages import Floats, divide


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
    return divide(left @ right, float(np.sqrt(left @ left) * np.sqrt(right @ right)))


def ranks(values: Floats) -> Floats:
    """[N] the rank of each value, from 1; equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[place]
