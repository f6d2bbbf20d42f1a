"""The metrics a recipe can name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.typed import About

Average = Literal["macro", "micro", "weighted", "binary"]
_AVERAGE = About("How classes are averaged; binary scores the positive class alone.")
_POSITIVE = About("The positive class of a binary average. auto: the last label.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of rows whose decision is right."""

    type: Annotated[Literal["accuracy"], About("Share of rows whose decision is right.")] = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class F1:
    """Harmonic mean of precision and recall."""

    type: Annotated[Literal["f1"], About("Harmonic mean of precision and recall.")] = "f1"
    average: Annotated[Average, _AVERAGE] = "macro"
    positive: Annotated[str, _POSITIVE] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Share of the rows given a class that have it."""

    type: Annotated[Literal["precision"], About("Share of the rows given a class that have it.")] = "precision"
    average: Annotated[Average, _AVERAGE] = "macro"
    positive: Annotated[str, _POSITIVE] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Share of the rows of a class that were given it."""

    type: Annotated[Literal["recall"], About("Share of the rows of a class that were given it.")] = "recall"
    average: Annotated[Average, _AVERAGE] = "macro"
    positive: Annotated[str, _POSITIVE] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matthews:
    """Correlation of decisions and labels (Gorodkin 2004 for several classes)."""

    type: Annotated[Literal["matthews"], About("Correlation of decisions and labels, from -1 to 1.")] = "matthews"


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


Metric = Accuracy | F1 | Precision | Recall | Matthews | MSE | RMSE | MAE | Pearson | Spearman | R2
LOWER_IS_BETTER = frozenset({"loss", "mse", "rmse", "mae"})
"""Names of metrics of which less is better; of all others, more."""


def name_of(metric: Metric) -> str:
    """The name by which reports list a metric: its type, and its average where it has one."""
    match metric:
        case F1() | Precision() | Recall():
            return f"{metric.type}_{metric.average}"
        case _:
            return metric.type
