"""continued-pretraining: every token of a text from those before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import ContinuedPretraining, Example, texts_of
from runtimes.features import Column, Portion, Ragged
from runtimes.readings import TARGET
from runtimes.tasks import language
from runtimes.tasks.interface import Answer, Array, Floats, Head
from runtimes.tasks.language import VARY, decider, detail_lines, fit, learns
from runtimes.tokens import Encoder

__all__ = ["VARY", "decider", "detail_lines", "fit", "learns"]


def head(task: ContinuedPretraining) -> Head:
    """The decoder's own."""
    return language.HEAD


# --- rows -> arrays


def columns(task: ContinuedPretraining, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and those that follow them."""
    return language.token_columns(pad_token_id)


def encode(task: ContinuedPretraining, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    encodings = encoder.encodings([texts_of(task, example.row) for example in examples])
    ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
    truncated = sum(bool(encoding.overflowing) for encoding in encodings)
    return language.next_tokens(ids, [np.ones(len(row), bool) for row in ids], truncated)


def weights(task: ContinuedPretraining, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """One for each token."""
    return language.counted(targets)


# --- measuring


def losses(loss: Loss, task: ContinuedPretraining, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[P] cross-entropy in nats."""
    return language.token_losses(outputs)


def score(task: ContinuedPretraining, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name."""
    return language.score_targets(metrics, targets, outputs)


def details(
    task: ContinuedPretraining, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None
) -> dict[str, Any]:
    """How many tokens were scored."""
    return language.no_details(targets, outputs)


def baseline(task: ContinuedPretraining, train_targets: Array, count: int) -> None:
    """Nothing: the model before tuning is what to compare with."""


# --- comparing


settle = language.settle_figures


def probe_row(text: str) -> Mapping[str, Any]:
    """A row with the text."""
    return {"text": text}


# --- answering


def answer(task: ContinuedPretraining, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """How well the model knows the text: the log-probability of its tokens after the first, in nats."""
    scored = outputs[:-1, TARGET].astype(np.float64)
    mean = float(scored.mean()) if len(scored) else 0.0
    return {"tokens": len(scored), "log_probability": float(scored.sum()), "perplexity": float(np.exp(-mean))}


def decision(task: ContinuedPretraining, outputs: Floats) -> str | None:
    """Nothing: a text is no decision."""
    return None


def line(answer: Answer) -> str:
    """The perplexity."""
    return f"perplexity {answer['perplexity']:.4f}"


def bundle_files(task: ContinuedPretraining) -> Mapping[str, Any]:
    """None: tokens have their names in the tokenizer."""
    return {}


def from_bundle(task: ContinuedPretraining, read: Callable[[str], Any]) -> ContinuedPretraining:
    """The task as the manifest has it."""
    return task


name_faults = language.name_faults
