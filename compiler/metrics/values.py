"""Metrics of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.typed import About


@dataclass(frozen=True, slots=True, kw_only=True)
class MSE:
    """Mean squared difference, in the targets' unit squared."""

    type: Annotated[Literal["mse"], About("Mean squared difference from the targets.")] = "mse"


@dataclass(frozen=True, slots=True, kw_only=True)
class RMSE:
    """Root of the mean squared difference, in the targets' unit."""

    type: Annotated[Literal["rmse"], About("Root of the mean squared difference.")] = "rmse"


@dataclass(frozen=True, slots=True, kw_only=True)
class MAE:
    """Mean absolute difference, in the targets' unit."""

    type: Annotated[Literal["mae"], About("Mean absolute difference from the targets.")] = "mae"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pearson:
    """Linear correlation of answers and targets."""

    type: Annotated[Literal["pearson"], About("Linear correlation with the targets, from -1 to 1.")] = "pearson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spearman:
    """Correlation of the ranks of answers and targets."""

    type: Annotated[Literal["spearman"], About("Correlation of ranks with the targets, from -1 to 1.")] = "spearman"


@dataclass(frozen=True, slots=True, kw_only=True)
class R2:
    """Share of the targets' variance that the answers explain."""

    type: Annotated[Literal["r2"], About("Share of the targets' variance explained; 1 is perfect.")] = "r2"
