"""token-classification: a tag for each word, and with them the entities of a text.

The first token of a word is answered for it, and bears its loss; other tokens of the word are ignored, as is usual
(Devlin et al. 2019, arXiv:1810.04805, 5.3). Words that a row's cut leaves no token, and those that the tokenizer makes
nothing of, have no position: they bear no loss and no metric counts them, for the model never saw them; an answer
says how far it was read.
"""

# N = rows, P = positions: tokens of all rows, C = tags

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from compiler.data.words import OUTSIDE, Range, Tagged, are_prefixed, tagged
from compiler.diagnostics import printable, short
from compiler.metrics import Metric, TokenAccuracy, name_of
from compiler.recipe import CrossEntropy, Loss
from compiler.tasks import Example, TokenClassification
from runtimes.metrics.entities import Span, count_spans, details_of, measure_spans, spans
from runtimes.metrics.tokens import measure_tokens
from runtimes.rows.encoding import text_columns
from runtimes.rows.features import IGNORED, TARGETS, TOKENS, Column, Portion, Ragged
from runtimes.rows.tokens import Encoder
from runtimes.tasks.interface import Answer, Array, Floats, Head, TaskCard
from runtimes.tasks.labels import (
    LABELS,
    cross_entropy,
    label_config,
    label_faults,
    label_weights,
    listed,
    read_labels,
    softmax,
)
from runtimes.verification.gate import Decide, Scores, argmax

LISTED = 40  # kinds of entities in a terminal's table
VARY = None


def decider(task: TokenClassification) -> Decide:
    """The tag of the highest logit."""
    return argmax


def head(task: TokenClassification) -> Head:
    """One logit for each tag."""
    names = labels_of(task)
    return Head(
        auto_class="AutoModelForTokenClassification",
        peft_task="TOKEN_CLS",
        config=label_config(names),
        num_outputs=len(names),
    )


def labels_of(task: TokenClassification) -> tuple[str, ...]:
    """The tags of a task that is resolved."""
    assert task.labels != "auto", "a plan's labels are resolved"
    return task.labels


def card(task: TokenClassification) -> TaskCard:
    """A tag for each word."""
    says = f"Gives each word of a text one of the tags {listed(labels_of(task))}."
    return TaskCard(pipeline_tag="token-classification", says=says, pipeline="token-classification")


# --- rows -> arrays


def columns(task: TokenClassification, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and for each the number of its word's tag."""
    return (*text_columns(pad_token_id), Column(name=TARGETS, dtype="int32", axis=TOKENS, padding=IGNORED))


def encode(task: TokenClassification, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    rows = [tagged(example.row) for example in examples]
    encodings = encoder.with_offsets([(row.text,) for row in rows])
    numbers = {name: number for number, name in enumerate(labels_of(task))}
    return Portion(
        ragged={
            "input_ids": [np.asarray(encoding.ids, np.int32) for encoding in encodings],
            "token_type_ids": [np.asarray(encoding.type_ids, np.int8) for encoding in encodings],
            TARGETS: [_targets(row, found, numbers) for row, found in zip(rows, encodings, strict=True)],
        },
        fixed={},
        truncated=sum(bool(encoding.overflowing) for encoding in encodings),
    )


def _targets(row: Tagged, encoding: Encoding, numbers: Mapping[str, int]) -> Array:
    """For each token the number of the tag that it is to answer, or IGNORED; so for a tag that has no number."""
    targets = np.full(len(encoding.ids), IGNORED, np.int32)
    places = positions_of(row.words, encoding.offsets)
    for tag, place in zip(row.tags, places if row.tags else (), strict=True):
        if place >= 0:
            targets[place] = numbers.get(tag, IGNORED)
    return targets


def positions_of(words: Sequence[Range], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The first token of each word, -1 where it has none. A token in two words is the first one's.

    `offsets`: which characters each token stands for; special tokens for none.
    """
    found, number = [-1] * len(words), 0
    for place, (start, end) in enumerate(offsets):
        while number < len(words) and words[number].end <= start:
            number += 1
        if number < len(words) and words[number].start < end and start < end and found[number] < 0:
            found[number] = place
    return found


def weights(task: TokenClassification, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B, T] the weight of each tag; zero where nothing is to be answered."""
    assert isinstance(loss, CrossEntropy), "checked by check_loss"
    answered = targets != IGNORED
    each = label_weights(loss, labels_of(task))[np.where(answered, targets, 0)]
    return np.where(answered, each, np.float32(0))


# --- measuring


def losses(loss: Loss, task: TokenClassification, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[P] cross-entropy of each position in nats; zero where nothing is to be answered."""
    found, answered = np.zeros(len(targets)), targets != IGNORED
    found[answered] = cross_entropy(outputs[answered], targets[answered])
    return found


def score(task: TokenClassification, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name. The decision is the tag of the highest logit, the first of equal ones."""
    answered = targets.values != IGNORED
    decided = outputs.values.argmax(axis=1)
    hits = (decided == targets.values)[answered]
    counts = count_spans(_entities(task, targets, targets.values), _entities(task, targets, decided))
    return {
        name_of(metric): (
            measure_tokens(metric, np.zeros(0), hits)
            if isinstance(metric, TokenAccuracy)
            else measure_spans(metric, counts)
        )
        for metric in metrics
    }


def _entities(task: TokenClassification, targets: Ragged, numbers: Array) -> list[tuple[Span, ...]]:
    """The entities of each row that tags [P] make, counted in the words that are measured."""
    names = np.asarray(_marked(labels_of(task)), object)
    answered = targets.values != IGNORED
    tags = names[numbers[answered]].tolist()
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(answered)])[targets.offsets]
    return [spans(tags[start:end]) for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]


def _marked(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags as those of entities. Plain ones mark an entity as long as they stand side by side."""
    if are_prefixed(tags):
        return tuple(tags)
    return tuple(tag if tag == OUTSIDE else f"I-{tag}" for tag in tags)


def details(
    task: TokenClassification, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None
) -> dict[str, Any]:
    """Precision, recall and F1 of each kind of entity."""
    decided = outputs.values.argmax(axis=1)
    counts = count_spans(_entities(task, targets, targets.values), _entities(task, targets, decided))
    return {"entities": details_of(counts)}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """A line for each kind of entity."""
    kinds: Mapping[str, Mapping[str, float]] = details["entities"]
    if not kinds:
        return []
    shown = {short(printable(kind)): figures for kind, figures in [*kinds.items()][:LISTED]}
    width = max(8, *(len(kind) + 2 for kind in shown))
    names = ("precision", "recall", "f1", "entities", "answered")
    lines = ["    " + " " * width + "".join(f"{name:>11}" for name in names)]
    for kind, figures in shown.items():
        cells = [f"{figures[name]:>11.4f}" for name in names[:3]] + [f"{figures[name]:>11,}" for name in names[3:]]
        lines.append(f"    {kind:<{width}}{''.join(cells)}")
    more = len(kinds) - LISTED
    return [*lines, f"    and {more:,} more kinds"] if more > 0 else lines


def baseline(task: TokenClassification, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the commonest tag of the train rows."""
    counts = np.bincount(train_targets[train_targets != IGNORED], minlength=len(labels_of(task)))
    outputs = np.zeros((count, len(counts)), np.float32)
    outputs[:, int(counts.argmax())] = 1.0
    return "majority", outputs


def learns(task: TokenClassification) -> bool:
    """Nothing beside the model's weights."""
    return False


def fit(task: TokenClassification, targets: Ragged, outputs: Ragged) -> TokenClassification:
    """The task as it is."""
    return task


# --- comparing


def settle(
    task: TokenClassification, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
) -> Scores:
    """The other side's logits, but the source's at the excused positions, so that near ties move no metric."""
    if source.shape != other.shape:
        return other
    settled_PC: Scores = np.where(excused[:, None], source, other)
    return settled_PC


def probe_row(text: str) -> Mapping[str, Any]:
    """A text without spans."""
    return {"text": text}


# --- answering


def answer(task: TokenClassification, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """The tags of a row's tokens with their probabilities, or the entities of its text; and how far it was read.

    `read_to` is there only where the row was cut: tokens, or characters, of it.
    """
    text, words, _ = tagged(row)
    [encoding] = encoder.with_offsets([(text,)])
    places = positions_of(words, encoding.offsets)
    read = max([number + 1 for number, place in enumerate(places) if place >= 0], default=0)
    shares_PC = softmax(outputs)
    decided = [int(shares_PC[place].argmax()) if place >= 0 else -1 for place in places]
    tags = [labels_of(task)[number] if number >= 0 else OUTSIDE for number in decided]
    scores = [float(shares_PC[place].max()) if place >= 0 else 0.0 for place in places]
    is_cut = bool(encoding.overflowing)
    if "tokens" in row:
        return {"tags": tags, "scores": scores} | ({"read_to": read} if is_cut else {})
    found = [*_spans_in(text, words, _marked_tags(task, tags), scores)]
    return {"spans": found} | ({"read_to": words[read - 1].end if read else 0} if is_cut else {})


def _marked_tags(task: TokenClassification, tags: Sequence[str]) -> list[str]:
    names = labels_of(task)
    marked = dict(zip(names, _marked(names), strict=True))
    return [marked.get(tag, tag) for tag in tags]


def _spans_in(
    text: str, words: Sequence[Range], tags: Sequence[str], scores: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """The entities of a text; the probability of one is the mean of its words'."""
    for span in spans(tags):
        start, end = words[span.start].start, words[span.end - 1].end
        score = float(np.mean(scores[span.start : span.end]))
        yield {"label": span.kind, "start": start, "end": end, "text": text[start:end], "score": score}


def decision(task: TokenClassification, outputs: Floats) -> str | None:
    """The tag of each token, special ones among them."""
    names = labels_of(task)
    return " ".join(names[number] for number in outputs.argmax(axis=1).tolist())


def line(answer: Answer) -> str:
    """The entities with their labels, or the tags."""
    if "tags" in answer:
        return " ".join(answer["tags"])
    return ", ".join(f"{span['text']} ({span['label']} {span['score']:.4f})" for span in answer["spans"]) or "nothing"


def bundle_files(task: TokenClassification) -> Mapping[str, Any]:
    """The tags in order."""
    return {LABELS: list(labels_of(task))}


def from_bundle(task: TokenClassification, read: Callable[[str], Any]) -> TokenClassification:
    """The task with the tags that the bundle names. Raises ValueError."""
    return replace(task, labels=read_labels(read))


def name_faults(task: TokenClassification, config: Any) -> tuple[int, tuple[str, ...]]:
    """How many tags config.json names, and where they are not those of labels.json."""
    return label_faults(labels_of(task), config)
