"""translation, summarization, text-to-text: an encoder reads a text, a decoder writes another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import Example, SequenceToSequence
from compiler.tasks.sequence_to_sequence import texts, written_ids
from runtimes.rows.features import IGNORED, LABELS, TARGETS, TOKENS, Column, Portion, Ragged
from runtimes.rows.readings import NUM_FIGURES, TARGET
from runtimes.rows.tokens import Encoder
from runtimes.tasks import language
from runtimes.tasks.interface import Answer, Array, Floats, Head, Prompt, TaskCard
from runtimes.tasks.language import VARY, decider, detail_lines, fit, learns

__all__ = ["VARY", "decider", "detail_lines", "fit", "learns"]


def head(task: SequenceToSequence) -> Head:
    """The decoder's own: a logit for each token of the vocabulary; with the token that the decoder reads first."""
    return Head(
        auto_class="AutoModelForSeq2SeqLM",
        peft_task="SEQ_2_SEQ_LM",
        config={} if task.start_id == "auto" else {"decoder_start_token_id": task.start_id},
        num_outputs=NUM_FIGURES,
        reading="tokens",
        arguments={"use_cache": False},
        encodes=True,
        cached=True,
        pretrained=True,
    )


def card(task: SequenceToSequence) -> TaskCard:
    """A text from another one: where the hub has no word for the kind, it is sorted under what writes."""
    own = task.type in ("translation", "summarization")
    return TaskCard(
        pipeline_tag=task.type if own else "text-generation",
        says="Reads a text and writes another one.",
        tags=() if own else ("text2text-generation",),
    )


# --- rows -> arrays


def columns(task: SequenceToSequence, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the source; those that the decoder reads, and of each the one that it is to write next.

    The decoder reads its start and then what it should have written. It sees none of the padding behind a row, so that
    no mask is needed, and any token will do for it.
    """
    return (
        Column(name="input_ids", dtype="int32", axis=TOKENS, padding=pad_token_id),
        Column(name="decoder_input_ids", dtype="int32", axis=LABELS, padding=pad_token_id),
        Column(name=TARGETS, dtype="int32", axis=LABELS, padding=IGNORED),
    )


def encode(task: SequenceToSequence, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows. A row without a target has the end alone to be written."""
    assert task.start_id != "auto" and task.max_target_length != "auto", "a plan's numbers are resolved"
    sources = encoder.encodings([texts(task, example.row) for example in examples])
    targets = encoder.whole.encode_batch_fast([example.row.get("target", "") for example in examples])
    whole = [written_ids(task, target.ids) for target in targets]
    written = [np.asarray(ids[: task.max_target_length], np.int32) for ids in whole]
    return Portion(
        ragged={
            "input_ids": [np.asarray(_source(task, source.ids), np.int32) for source in sources],
            "decoder_input_ids": [np.concatenate([[task.start_id], ids[:-1]]).astype(np.int32) for ids in written],
            TARGETS: written,
        },
        fixed={},
        truncated=sum(bool(source.overflowing) for source in sources),
        truncated_labels=sum(len(ids) > task.max_target_length for ids in whole),
    )


def _source(task: SequenceToSequence, ids: Sequence[int]) -> Sequence[int]:
    """What the encoder reads: the end alone of a text that a tokenizer makes nothing of."""
    assert task.end_id != "auto", "a plan's numbers are resolved"
    return ids or (task.end_id,)


def weights(task: SequenceToSequence, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """One for each token that is to be written."""
    return language.counted(targets)


# --- measuring


def losses(loss: Loss, task: SequenceToSequence, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[P] cross-entropy in nats."""
    return language.token_losses(outputs)


def score(task: SequenceToSequence, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric of tokens by its name, each token after those that should have been written."""
    return language.score_targets(metrics, targets, outputs)


def details(
    task: SequenceToSequence, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None
) -> dict[str, Any]:
    """How many tokens were scored."""
    return language.no_details(targets, outputs)


def baseline(task: SequenceToSequence, train_targets: Array, count: int) -> None:
    """Nothing: the model before tuning is what to compare with."""


# --- comparing


settle = language.settle_figures


def probe_row(text: str) -> Mapping[str, Any]:
    """A row with the text as its source."""
    return {"source": text, "target": "ok"}


# --- answering


def prompt(task: SequenceToSequence, row: Mapping[str, Any], encoder: Encoder) -> Prompt:
    """What the encoder reads; without its end where it is too long."""
    [source] = encoder.encodings([texts(task, row)])
    return Prompt(ids=tuple(_source(task, source.ids)), cut="end" if source.overflowing else None)


def end_tokens(task: SequenceToSequence, encoder: Encoder) -> tuple[int, ...]:
    """The token that ends a target."""
    assert task.end_id != "auto", "a plan's numbers are resolved"
    return (task.end_id,)


def tokenizer_files(task: SequenceToSequence, tokenizer_file: Path) -> Mapping[str, str]:
    """None: the tokenizer is the base's."""
    return {}


def reference(task: SequenceToSequence, row: Mapping[str, Any]) -> str:
    """The target."""
    target: str = row["target"]
    return target


def said(task: SequenceToSequence, text: str) -> str:
    """All of it."""
    return text


def written(task: SequenceToSequence, row: Mapping[str, Any], text: str) -> Answer:
    """The text."""
    return {"text": text}


def answer(task: SequenceToSequence, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """How well the model knows the target that the row has: its log-probability in nats."""
    return {"log_probability": float(outputs[:, TARGET].sum(dtype=np.float64))}


def decision(task: SequenceToSequence, outputs: Floats) -> str | None:
    """Nothing: a text is no decision."""
    return None


def line(answer: Answer) -> str:
    """The text."""
    return str(answer["text"])


def bundle_files(task: SequenceToSequence) -> Mapping[str, Any]:
    """None: tokens have their names in the tokenizer."""
    return {}


def from_bundle(task: SequenceToSequence, read: Callable[[str], Any]) -> SequenceToSequence:
    """The task as the manifest has it."""
    return task


def name_faults(task: SequenceToSequence, config: Any) -> tuple[int, tuple[str, ...]]:
    """Whether config.json speaks of an encoder-decoder, as readers of the transformers layout ask it."""
    found = config.get("is_encoder_decoder") if isinstance(config, dict) else None
    return 1, () if found is True else (f"is_encoder_decoder in config.json is {found}, not true",)
