"""text-generation: an answer to a conversation, an instruction or a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import Example, TextGeneration
from compiler.tasks.text_generation import conversation, segments
from compiler.tokens import rows_of, start_of
from runtimes.features import Column, Portion, Ragged
from runtimes.inputs import InputReader, padding_of
from runtimes.readings import TARGET
from runtimes.tasks import language
from runtimes.tasks.interface import Answer, Array, Floats, Head
from runtimes.tasks.language import DECIDE, VARY, detail_lines
from runtimes.tokens import Encoder

__all__ = ["DECIDE", "VARY", "detail_lines"]


def head(task: TextGeneration) -> Head:
    """The decoder's own."""
    return language.HEAD


# --- rows -> arrays


def columns(task: TextGeneration, reader: InputReader | None) -> tuple[Column, ...]:
    """The tokens of the conversation, and those that are to follow them."""
    return language.token_columns(padding_of(reader))


def encode(task: TextGeneration, examples: Sequence[Example], reader: Encoder) -> Portion:
    """The columns of some rows."""
    template = task.template.template()
    starts = [start_of(template, reader.whole, conversation(example.row)) for example in examples]
    found = rows_of((segments(task, example.row) for example in examples), reader.whole)
    ids = [np.asarray([*start, *row.ids], np.int32) for start, row in zip(starts, found, strict=True)]
    learnt = [
        np.asarray([False] * len(start) + [*row.supervised], bool) for start, row in zip(starts, found, strict=True)
    ]
    most = reader.max_length
    truncated = sum(len(row) > most for row in ids)
    return language.next_tokens([row[:most] for row in ids], [row[:most] for row in learnt], truncated)


def weights(task: TextGeneration, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """One for each token that is learnt."""
    return language.counted(targets)


# --- measuring


def losses(loss: Loss, task: TextGeneration, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[P] cross-entropy in nats."""
    return language.token_losses(outputs)


def score(task: TextGeneration, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name, over the tokens that are learnt."""
    return language.score_targets(metrics, targets, outputs)


def details(task: TextGeneration, targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """How many tokens were scored."""
    return language.no_details(targets, outputs)


def baseline(task: TextGeneration, train_targets: Array, count: int) -> None:
    """Nothing: the model before tuning is what to compare with."""


# --- comparing


settle = language.settle_figures


def probe_row(value: str) -> Mapping[str, Any]:
    """A row with the text as its prompt."""
    return {"prompt": value, "completion": "ok"}


# --- answering


def answer(task: TextGeneration, row: Mapping[str, Any], outputs: Floats, reader: Encoder) -> Answer:
    """How well the model knows the answer that the row has: its log-probability in nats."""
    learnt = outputs[:, TARGET].astype(np.float64)
    return {"log_probability": float(learnt.sum())}


def decision(task: TextGeneration, outputs: Floats) -> str | None:
    """Nothing: a text is no decision."""
    return None


def line(answer: Answer) -> str:
    """The log-probability."""
    return f"{answer['log_probability']:.4f}"


def bundle_files(task: TextGeneration) -> Mapping[str, Any]:
    """None: tokens have their names in the tokenizer."""
    return {}


def from_bundle(task: TextGeneration, read: Callable[[str], Any]) -> TextGeneration:
    """The task as the manifest has it."""
    return task


name_faults = language.name_faults
