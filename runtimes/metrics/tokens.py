"""Metrics of next tokens."""

# T = target tokens of all rows

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric, Perplexity, TokenAccuracy, name_of


def score_tokens(
    metrics: Sequence[Metric], losses: npt.NDArray[np.floating[Any]], hits: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Each metric by its name, over the cross-entropy in nats [T] of every target and whether it was the likeliest."""
    return {name_of(metric): measure_tokens(metric, losses, hits) for metric in metrics}


def measure_tokens(metric: Metric, losses: npt.NDArray[np.floating[Any]], hits: npt.NDArray[np.bool_]) -> float:
    """One metric of targets [T]."""
    match metric:
        case Perplexity():
            return perplexity(losses)
        case TokenAccuracy():
            return float(hits.mean()) if hits.size else 0.0
        case _:
            raise ValueError(f"{metric.type} is no metric of tokens")


def perplexity(losses: npt.NDArray[np.floating[Any]]) -> float:
    """The exponential of the mean of [T]; the largest float where that is more, or without a target."""
    try:
        return math.exp(float(losses.mean(dtype=np.float64))) if losses.size else sys.float_info.max
    except OverflowError:
        return sys.float_info.max
