"""text-generation: an answer to a conversation, an instruction or a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from compiler.data.conversations import after_examples
from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.supervision import end_of_reasoning
from compiler.tasks import Example, TextGeneration, text_generation
from compiler.tasks.text_generation import conversation, pieces, told
from compiler.templates import OWN, TEMPLATE_FILE, ConversationError
from compiler.tokens import prompt_tokens, rows_of, source_for_servers, start_of, stop_token
from runtimes.rows.features import Column, Portion, Ragged
from runtimes.rows.readings import TARGET
from runtimes.rows.tokens import Encoder
from runtimes.tasks import language
from runtimes.tasks.interface import Answer, Array, Floats, Head, Prompt, TaskCard
from runtimes.tasks.language import VARY, decider, detail_lines, fit, learns

__all__ = ["VARY", "decider", "detail_lines", "fit", "learns"]


def head(task: TextGeneration) -> Head:
    """The decoder's own."""
    return language.HEAD


def card(task: TextGeneration) -> TaskCard:
    """An answer to a prompt, or to the messages of a conversation."""
    return TaskCard(pipeline_tag="text-generation", says="Writes the answer to a prompt or to a conversation.")


# --- rows -> arrays


def columns(task: TextGeneration, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the conversation, and those that are to follow them."""
    return language.token_columns(pad_token_id)


def encode(task: TextGeneration, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    template = task.template.template()
    starts = [start_of(template, encoder.whole, conversation(example.row)) for example in examples]
    found = rows_of((pieces(task, example.row) for example in examples), encoder.whole)
    ids = [np.asarray([*start, *row.ids], np.int32) for start, row in zip(starts, found, strict=True)]
    learnt = [
        np.asarray([False] * len(start) + [*row.supervised], bool) for start, row in zip(starts, found, strict=True)
    ]
    most = encoder.max_length
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


def details(task: TextGeneration, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None) -> dict[str, Any]:
    """How many tokens were scored."""
    return language.no_details(targets, outputs)


def baseline(task: TextGeneration, train_targets: Array, count: int) -> None:
    """Nothing: the model before tuning is what to compare with."""


# --- comparing


settle = language.settle_figures


def probe_row(text: str) -> Mapping[str, Any]:
    """A row with the text as its prompt."""
    return {"prompt": text, "completion": "ok"}


# --- answering


def prompt(task: TextGeneration, row: Mapping[str, Any], encoder: Encoder) -> Prompt:
    """What the assistant's next turn starts from; without its beginning where it is too long."""
    ids = prompt_tokens(conversation(row), task.template.template(), encoder.whole)
    return Prompt(ids=ids).last(encoder.max_length)


def is_solved(task: TextGeneration, row: Mapping[str, Any]) -> bool:
    """Whether the assistant answers in a row that has turns."""
    found = conversation(row)
    return not found.is_passage and found.first_turn < found.last_answer < len(found.messages)


def prompt_after(
    task: TextGeneration, row: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], encoder: Encoder
) -> tuple[int, ...] | None:
    """The same, uncut, with solved rows as earlier turns; None for a text without turns, or if the template refuses."""
    asked = conversation(row)
    if asked.is_passage:
        return None
    try:
        joined = after_examples(asked, [told(task, example) for example in examples])
        return prompt_tokens(joined, task.template.template(), encoder.whole)
    except ConversationError:
        return None


def end_tokens(task: TextGeneration, encoder: Encoder) -> tuple[int, ...]:
    """The token that ends a turn."""
    return (stop_token(task.template.template(), encoder.whole),)


def tokenizer_files(task: TextGeneration, tokenizer_file: Path) -> Mapping[str, str]:
    """The chat template, where it is not the model's own."""
    template = task.template.template()
    if template.name == OWN:
        return {}
    return {TEMPLATE_FILE: source_for_servers(template, Tokenizer.from_file(str(tokenizer_file)))}


def reference(task: TextGeneration, row: Mapping[str, Any]) -> str:
    """What the assistant says last."""
    return text_generation.reference(row)


def written(task: TextGeneration, row: Mapping[str, Any], text: str) -> Answer:
    """The text."""
    return {"text": text}


def said(task: TextGeneration, text: str) -> str:
    """What follows the reasoning; all of it where none ends."""
    end = end_of_reasoning(task.template.template())
    return text.rpartition(end)[2].lstrip() if end and end in text else text


def answer(task: TextGeneration, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """How well the model knows the answer that the row has: its log-probability in nats."""
    return {"log_probability": float(outputs[:, TARGET].sum(dtype=np.float64))}


def decision(task: TextGeneration, outputs: Floats) -> str | None:
    """Nothing: a text is no decision."""
    return None


def line(answer: Answer) -> str:
    """The text."""
    return str(answer["text"])


def bundle_files(task: TextGeneration) -> Mapping[str, Any]:
    """None: tokens have their names in the tokenizer."""
    return {}


def from_bundle(task: TextGeneration, read: Callable[[str], Any]) -> TextGeneration:
    """The task as the manifest has it."""
    return task


name_faults = language.name_faults
