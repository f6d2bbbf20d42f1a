"""Metrics of labels: of those decided for, and of the scores that rank rows for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.typed import About

Average = Literal["macro", "micro", "weighted", "binary"]
RankingAverage = Literal["macro", "weighted", "binary"]
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
class AUROC:
    """Chance that a row of a class scores higher for it than a row of another; 0.5 is guessing."""

    type: Annotated[
        Literal["auroc"], About("Chance that a row of a class scores higher for it than another row; 0.5 is guessing.")
    ] = "auroc"
    average: Annotated[RankingAverage, _AVERAGE] = "macro"
    positive: Annotated[str, _POSITIVE] = "auto"


OfClasses = F1 | Precision | Recall | AUROC
"""Metrics that are averaged over classes, or score one of them."""
