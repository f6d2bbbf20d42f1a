"""Metrics of entities in texts: one counts as found where its kind, its start and its end are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.typed import About

EntityAverage = Literal["micro", "macro", "weighted"]
_AVERAGE = About("micro: over all entities at once. macro, weighted: over kinds, by how many entities each has.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityF1:
    """Harmonic mean of the entities' precision and recall."""

    type: Annotated[Literal["entity-f1"], About("Harmonic mean of the entities' precision and recall.")] = "entity-f1"
    average: Annotated[EntityAverage, _AVERAGE] = "micro"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityPrecision:
    """Share of the entities answered that are there."""

    type: Annotated[Literal["entity-precision"], About("Share of the entities answered that are there.")] = (
        "entity-precision"
    )
    average: Annotated[EntityAverage, _AVERAGE] = "micro"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityRecall:
    """Share of the entities there that were answered."""

    type: Annotated[Literal["entity-recall"], About("Share of the entities there that were answered.")] = (
        "entity-recall"
    )
    average: Annotated[EntityAverage, _AVERAGE] = "micro"
