"""summarization: a text in fewer words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from compiler.metrics import ROUGE, Perplexity
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

DEFAULT_METRICS = (ROUGE(), Perplexity())


@dataclass(frozen=True, slots=True, kw_only=True)
class Summarization(SequenceToSequence):
    """A text in fewer words. Columns: source, target."""

    type: Annotated[Literal["summarization"], About("A text in fewer words. Columns: source, target.")] = (
        "summarization"
    )


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task as it runs."""
    return resolved(recipe, model, data, DEFAULT_METRICS)
