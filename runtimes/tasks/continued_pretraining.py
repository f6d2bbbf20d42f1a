"""continued-pretraining: each token of a text from those before it, or hidden ones from those around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import ContinuedPretraining, Example, texts_of
from compiler.tasks.masking import check_drawn
from runtimes.protocol import Batch
from runtimes.rows.features import IGNORED, TARGETS, Column, Portion, Ragged
from runtimes.rows.readings import TARGET
from runtimes.rows.tokens import Encoder
from runtimes.tasks import language, masking
from runtimes.tasks.interface import Answer, Array, Floats, Head, TaskCard
from runtimes.tasks.language import decider, detail_lines, fit, learns

__all__ = ["decider", "detail_lines", "fit", "learns"]


def head(task: ContinuedPretraining) -> Head:
    """The model's own: for the next token, or for hidden ones."""
    return language.HEAD if task.masking is None else masking.HEAD


def card(task: ContinuedPretraining) -> TaskCard:
    """What a language model does."""
    if task.masking is None:
        return TaskCard(pipeline_tag="text-generation", says="Goes on with a text.")
    return TaskCard(pipeline_tag="fill-mask", says="Tells the hidden tokens of a text.")


# --- rows -> arrays


def columns(task: ContinuedPretraining, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and those that follow them; or what is seen of a text, and its hidden tokens."""
    return language.token_columns(pad_token_id) if task.masking is None else masking.columns(pad_token_id)


def encode(task: ContinuedPretraining, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    texts = [texts_of(task, example.row) for example in examples]
    if task.masking is not None:
        return masking.always_hidden(task.masking, texts, encoder)
    encodings = encoder.encodings(texts)
    ids = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
    truncated = sum(bool(encoding.overflowing) for encoding in encodings)
    return language.next_tokens(ids, [np.ones(len(row), bool) for row in ids], truncated)


def weights(task: ContinuedPretraining, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """One for each token that is learnt."""
    return language.counted(targets)


def vary(task: ContinuedPretraining, batch: Batch, *, seed: int, epoch: int) -> Batch:
    """The batch with other tokens hidden, where some are: a function of (seed, epoch, row)."""
    return batch if task.masking is None else masking.hidden_anew(task.masking, batch, seed=seed, epoch=epoch)


VARY = vary

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
    """How well the model knows the text: the log-probability of the tokens that it would be measured on, in nats.

    Of a decoder those after the first; of an encoder those that are hidden in the text wherever it is not learnt.
    """
    [targets] = encode(task, [Example(row=row)], encoder).ragged[TARGETS]
    scored = outputs[targets != IGNORED, TARGET].astype(np.float64)
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
    """The task as the manifest has it. Raises ValueError where no token is left to be drawn."""
    hidden = task.masking
    if hidden is not None and hidden.vocab_size != "auto" and hidden.special_ids != "auto":
        check_drawn(hidden.vocab_size, hidden.special_ids)
    return task


name_faults = language.name_faults
