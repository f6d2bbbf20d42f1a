"""Precision, recall and F1 of classes from counts, and their averages."""

# C = classes, or kinds of entities

from __future__ import annotations

from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Ratio = Literal["f1", "precision", "recall"]
Average = Literal["macro", "micro", "weighted"]


def ratios(ratio: Ratio, right: Counts, given: Counts, truth: Counts) -> Floats:
    """[C] the ratio of each class, from how often it was given rightly, given, and true; 0 where nothing divides."""
    match ratio:
        case "precision":
            over, under = right, given
        case "recall":
            over, under = right, truth
        case "f1":
            over, under = 2 * right, given + truth
        case _:
            assert_never(ratio)
    return np.divide(over, under, out=np.zeros(len(over)), where=under > 0)


def averaged(ratio: Ratio, average: Average, right: Counts, given: Counts, truth: Counts) -> float:
    """The ratio over classes: of their sums, the mean, or the mean by how often each is true."""
    match average:
        case "micro":
            return float(ratios(ratio, right.sum()[None], given.sum()[None], truth.sum()[None])[0])
        case "weighted":
            return divide(float(ratios(ratio, right, given, truth) @ truth), float(truth.sum()))
        case "macro":
            # Classes that neither stand in the rows nor were given say nothing, and are left out.
            seen = (given + truth) > 0
            return divide(ratios(ratio, right, given, truth)[seen].sum(), seen.sum())
        case _:
            assert_never(average)


def divide(over: float, under: float) -> float:
    """The quotient; 0 where nothing divides."""
    return float(over / under) if under else 0.0
