"""text-classification: one label for a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compiler.tasks import Example, TextClassification, texts_of
from runtimes.encoding import encode_texts, text_columns
from runtimes.features import Column, Portion
from runtimes.inputs import InputReader, padding_of
from runtimes.tasks.interface import Head
from runtimes.tasks.labels import (
    DECIDE,
    answer,
    baseline,
    bundle_files,
    decision,
    detail_lines,
    details,
    from_bundle,
    label_head,
    labels_of,
    line,
    losses,
    name_faults,
    score,
    settle,
    softmax,
    weights,
)
from runtimes.tokens import Encoder

__all__ = [
    "DECIDE",
    "VARY",
    "answer",
    "baseline",
    "bundle_files",
    "columns",
    "decision",
    "detail_lines",
    "details",
    "encode",
    "from_bundle",
    "head",
    "labels_of",
    "line",
    "losses",
    "name_faults",
    "probe_row",
    "score",
    "settle",
    "softmax",
    "weights",
]

VARY = None


def head(task: TextClassification) -> Head:
    """One logit for each label."""
    return label_head(task, "AutoModelForSequenceClassification", "SEQ_CLS")


def columns(task: TextClassification, reader: InputReader | None) -> tuple[Column, ...]:
    """The tokens of the text, and the label's number."""
    return (*text_columns(padding_of(reader)), Column(name="targets", dtype="int64"))


def encode(task: TextClassification, examples: Sequence[Example], reader: Encoder) -> Portion:
    """The columns of some rows."""
    targets = np.array([example.target for example in examples], np.int64)
    return encode_texts([texts_of(task, example.row) for example in examples], reader, {"targets": targets})


def probe_row(value: str) -> Mapping[str, Any]:
    """A row without a label."""
    return {"text": value}
