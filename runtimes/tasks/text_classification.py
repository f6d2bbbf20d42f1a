"""text-classification: one label for a text, or with multi_label any number of them."""

# N = rows of a split, B = rows of a batch, C = labels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal, Loss
from compiler.tasks import Example, TextClassification, texts_of
from runtimes.rows.encoding import encode_texts, text_columns
from runtimes.rows.features import Column, Portion, Ragged
from runtimes.rows.tokens import Encoder
from runtimes.tasks import label_sets, one_label
from runtimes.tasks.interface import Answer, Array, Floats, Head, TaskCard
from runtimes.tasks.labels import LABELS, label_config, label_faults, listed, read_labels
from runtimes.verification.gate import Decide, Scores, argmax

VARY = None


def head(task: TextClassification) -> Head:
    """One logit for each label."""
    names = labels_of(task)
    return Head(
        auto_class="AutoModelForSequenceClassification",
        peft_task="SEQ_CLS",
        config={
            **label_config(names),
            "problem_type": "multi_label_classification" if task.multi_label else "single_label_classification",
        },
        num_outputs=len(names),
    )


def labels_of(task: TextClassification) -> tuple[str, ...]:
    """The label names of a task that is resolved."""
    assert task.labels != "auto", "a plan's labels are resolved"
    return task.labels


def thresholds_of(task: TextClassification) -> label_sets.Thresholds:
    """[C] the share at which each label is given: those learnt, or the one that is written, or a half."""
    if task.thresholds:
        return np.asarray(task.thresholds)
    return np.full(len(labels_of(task)), 0.5 if task.threshold == "auto" else task.threshold)


def decider(task: TextClassification) -> Decide:
    """The best label, or each label by itself."""
    return label_sets.decider(thresholds_of(task)) if task.multi_label else argmax


def card(task: TextClassification) -> TaskCard:
    """A label for a text, or any number of them."""
    what = "Gives a text any number of the labels" if task.multi_label else "Gives a text one of the labels"
    return TaskCard(
        pipeline_tag="text-classification", says=f"{what} {listed(labels_of(task))}.", pipeline="text-classification"
    )


# --- rows -> arrays


def columns(task: TextClassification, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and the label's number, or whether the row has each label."""
    if task.multi_label:
        targets = Column(name="targets", dtype="float32", shape=(len(labels_of(task)),))
        return (*text_columns(pad_token_id), targets)
    return (*text_columns(pad_token_id), Column(name="targets", dtype="int64"))


def encode(task: TextClassification, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    targets = (
        label_sets.targets_of([example.row for example in examples], labels_of(task))
        if task.multi_label
        else np.array([example.target for example in examples], np.int64)
    )
    return encode_texts([texts_of(task, example.row) for example in examples], encoder, {"targets": targets})


def weights(task: TextClassification, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B] the weight of each row's label; [B, C] of each label where a row may have several."""
    assert isinstance(loss, (CrossEntropy, BinaryCrossEntropy, Focal)), "checked by check_loss"
    if task.multi_label:
        return label_sets.weights(loss.class_weights, labels_of(task), targets)
    return one_label.weights(loss, labels_of(task), targets)


# --- measuring


def losses(loss: Loss, task: TextClassification, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] the loss of each row, or [N, C] of each label; cross-entropy in nats."""
    if task.multi_label:
        return label_sets.losses(loss, targets, outputs)
    return one_label.losses(loss, targets, outputs)


def score(task: TextClassification, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name. The decision is the label of the highest logit, the first of equal ones."""
    if task.multi_label:
        return label_sets.score(metrics, thresholds_of(task), labels_of(task), targets, outputs)
    return one_label.score(metrics, labels_of(task), targets, outputs)


def details(
    task: TextClassification, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None
) -> dict[str, Any]:
    """The confusion matrix, or the figures of each label."""
    if task.multi_label:
        return label_sets.details(thresholds_of(task), labels_of(task), targets, outputs)
    return one_label.details(labels_of(task), targets, outputs)


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """The details for a terminal, the confusion matrix only where there are few labels."""
    if "by_label" in details:
        return label_sets.detail_lines(details["by_label"])
    return one_label.detail_lines(details)


def baseline(task: TextClassification, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the commonest label of the train rows, or those that most of them have."""
    if task.multi_label:
        return label_sets.baseline(train_targets, count)
    return one_label.baseline(labels_of(task), train_targets, count)


def learns(task: TextClassification) -> bool:
    """The threshold of each label, where none is written."""
    return task.multi_label and task.threshold == "auto"


def fit(task: TextClassification, targets: Ragged, outputs: Ragged) -> TextClassification:
    """The task with the threshold of each label."""
    return replace(task, thresholds=label_sets.fit(targets, outputs))


# --- comparing


def settle(
    task: TextClassification, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
) -> Scores:
    """The other side's logits, but the source's where the difference is one that moves no decision."""
    if task.multi_label:
        return label_sets.settle(source, other, excused, tolerance, decider(task))
    return one_label.settle(source, other, excused, tolerance)


def probe_row(text: str) -> Mapping[str, Any]:
    """A row without a label."""
    return {"text": text}


# --- answering


def answer(task: TextClassification, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """The label decided, its probability, and that of every label; or the labels given."""
    if task.multi_label:
        return label_sets.answer(thresholds_of(task), labels_of(task), outputs)
    return one_label.answer(labels_of(task), outputs)


def decision(task: TextClassification, outputs: Floats) -> str | None:
    """The label, or the list of them."""
    if task.multi_label:
        return label_sets.decision(thresholds_of(task), labels_of(task), outputs)
    return one_label.decision(labels_of(task), outputs)


def line(answer: Answer) -> str:
    """The label and its probability; or each label given."""
    if "labels" in answer:
        return label_sets.line(answer)
    return one_label.line(answer)


def bundle_files(task: TextClassification) -> Mapping[str, Any]:
    """The label names in order; with multi_label their thresholds too."""
    names = list(labels_of(task))
    return {LABELS: {"labels": names, "thresholds": thresholds_of(task).tolist()} if task.multi_label else names}


def from_bundle(task: TextClassification, read: Callable[[str], Any]) -> TextClassification:
    """The task with the labels that the bundle names. Raises ValueError."""
    if not task.multi_label:
        return replace(task, labels=read_labels(read))
    names, thresholds = label_sets.read_bundle(read, LABELS)
    return replace(task, labels=read_labels(lambda _: names), thresholds=thresholds)


def name_faults(task: TextClassification, config: Any) -> tuple[int, tuple[str, ...]]:
    """How many label names config.json has, and where they are not those of labels.json."""
    return label_faults(labels_of(task), config)
