"""text-classification: one label for a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from compiler.metrics import F1, Accuracy
from compiler.typed import About

COLUMNS = ("text", "label")
METRICS = ("accuracy", "f1", "precision", "recall", "matthews")
LOSSES = ("cross-entropy",)
DEFAULT_METRICS = (Accuracy(), F1())


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassification:
    """One label for a text. Columns: text, label."""

    type: Annotated[Literal["text-classification"], About("One label for a text. Columns: text, label.")] = (
        "text-classification"
    )
    labels: Annotated[
        tuple[str, ...] | Literal["auto"],
        About("Label names in order; a whole number in the data counts into them. auto: the labels in the data."),
    ] = "auto"
