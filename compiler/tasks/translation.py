"""translation: a text in another language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.metrics import BLEU, ChrF, Perplexity
from compiler.tasks.interface import ResolvedTask
from compiler.tasks.sequence_to_sequence import (
    ARCHITECTURES,
    COLUMNS,
    INPUTS,
    LOSSES,
    METRICS,
    NAMED,
    OPTIONAL,
    PACKING,
    SPECIAL_TOKENS,
    STRATIFIES,
    WRITES,
    WRITTEN,
    SequenceToSequence,
    bind,
    check,
    check_data,
    check_facts,
    pieces,
    reader,
    resolved,
    summary,
    texts,
)
from compiler.typed import About

if TYPE_CHECKING:
    from compiler.facts import DataFacts, ModelFacts
    from compiler.recipe import Recipe

__all__ = [
    "ARCHITECTURES",
    "COLUMNS",
    "INPUTS",
    "LOSSES",
    "METRICS",
    "NAMED",
    "OPTIONAL",
    "PACKING",
    "SPECIAL_TOKENS",
    "STRATIFIES",
    "WRITES",
    "WRITTEN",
    "bind",
    "check",
    "check_data",
    "check_facts",
    "pieces",
    "reader",
    "summary",
    "texts",
]

DEFAULT_METRICS = (BLEU(), ChrF(), Perplexity())


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation(SequenceToSequence):
    """A text in another language. Columns: source, target."""

    type: Annotated[Literal["translation"], About("A text in another language. Columns: source, target.")] = (
        "translation"
    )


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task as it runs."""
    return resolved(recipe, model, data, DEFAULT_METRICS)
