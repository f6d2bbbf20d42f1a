"""text-classification: one label for a text, or with multi_label any number of them."""

# N = rows of a split, B = rows of a batch, C = labels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.diagnostics import printable, short
from compiler.metrics import AUROC, Metric, name_of
from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal, Loss
from compiler.tasks import Example, TextClassification, texts_of
from runtimes.encoding import encode_texts, text_columns
from runtimes.features import Column, Portion, Ragged
from runtimes.gate import Decide, Scores, argmax
from runtimes.metrics.decisions import confusion_matrix, score_decisions
from runtimes.metrics.ranking import score_ranking
from runtimes.tasks import label_sets
from runtimes.tasks.interface import Answer, Array, Floats, Head
from runtimes.tokens import Encoder

LABELS = "labels.json"
_NAMES = ("id2label", "label2id")


def head(task: TextClassification) -> Head:
    """One logit for each label."""
    names = labels_of(task)
    return Head(
        auto_class="AutoModelForSequenceClassification",
        peft_task="SEQ_CLS",
        config={
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
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


# --- rows -> arrays


def columns(task: TextClassification, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and the label's number, or whether the row has each label."""
    if task.multi_label:
        targets = Column(name="targets", dtype="float32", width=len(labels_of(task)))
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
    if isinstance(loss.class_weights, str):
        return np.ones(len(targets), np.float32)
    return np.array([loss.class_weights[name] for name in labels_of(task)], np.float32)[targets]


# --- measuring


def losses(loss: Loss, task: TextClassification, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] the loss of each row, or [N, C] of each label; cross-entropy in nats."""
    if task.multi_label:
        return label_sets.losses(loss, targets, outputs)
    logits_NC = outputs.astype(np.float64)
    shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    chosen_N = shifted_NC[np.arange(len(targets)), targets]
    found: npt.NDArray[np.float64] = np.log(np.exp(shifted_NC).sum(axis=1)) - chosen_N
    return found * (-np.expm1(-found)) ** loss.gamma if isinstance(loss, Focal) else found


def score(task: TextClassification, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name. The decision is the label of the highest logit, the first of equal ones."""
    if task.multi_label:
        return label_sets.score(metrics, thresholds_of(task), labels_of(task), targets, outputs)
    names, decided = labels_of(task), outputs.values.argmax(axis=1)
    of_scores = [metric for metric in metrics if isinstance(metric, AUROC)]
    found = score_decisions([one for one in metrics if one not in of_scores], targets.values, decided, names)
    found |= score_ranking(of_scores, targets.values, softmax(outputs.values), names) if of_scores else {}
    return {name: found[name] for name in map(name_of, metrics)}


def details(task: TextClassification, targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """The confusion matrix, or the figures of each label."""
    if task.multi_label:
        return label_sets.details(thresholds_of(task), labels_of(task), targets, outputs)
    names = labels_of(task)
    matrix = confusion_matrix(targets.values, outputs.values.argmax(axis=1), len(names))
    return {"confusion": {"labels": list(names), "rows_true_columns_decided": matrix.tolist()}}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """The details for a terminal, the confusion matrix only where there are few labels."""
    if "by_label" in details:
        return label_sets.detail_lines(details["by_label"])
    confusion = details["confusion"]
    labels = [short(printable(label)) for label in confusion["labels"]]
    if len(labels) > 12:
        return []
    width = max(8, *(len(label) + 2 for label in labels))
    lines = [
        "    confusion (rows: true, columns: decided)",
        "    " + " " * width + "".join(f"{name:>{width}}" for name in labels),
    ]
    for name, row in zip(labels, confusion["rows_true_columns_decided"], strict=True):
        lines.append(f"    {name:<{width}}" + "".join(f"{count:>{width},}" for count in row))
    return lines


def baseline(task: TextClassification, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the commonest label of the train rows, or those that most of them have."""
    if task.multi_label:
        return label_sets.baseline(train_targets, count)
    counts = np.bincount(train_targets, minlength=len(labels_of(task)))
    outputs = np.zeros((count, len(counts)), np.float32)
    outputs[:, int(counts.argmax())] = 1.0
    return "majority", outputs


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
    """The other side's logits, but the source's in the excused rows, so that near ties move no metric.

    Likewise where both are within the tolerance, whose rounding could swap the ranks of rows; but a row that is decided
    otherwise and not excused counts as it was decided.
    """
    if task.multi_label:
        return label_sets.settle(source, other, excused, tolerance, decider(task))
    if source.shape != other.shape or not source.size:
        return other
    alike_N = (np.abs(source - other) <= tolerance).all(axis=1) & (source.argmax(axis=1) == other.argmax(axis=1))
    settled_NC: Scores = np.where((excused | alike_N)[:, None], source, other)
    return settled_NC


def probe_row(text: str) -> Mapping[str, Any]:
    """A row without a label."""
    return {"text": text}


# --- answering


def answer(task: TextClassification, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """The label decided, its probability, and that of every label; or the labels given."""
    if task.multi_label:
        return label_sets.answer(thresholds_of(task), labels_of(task), outputs)
    [shares_C] = softmax(outputs)
    best = int(shares_C.argmax())
    names = labels_of(task)
    return {
        "label": names[best],
        "score": float(shares_C[best]),
        "scores": dict(zip(names, shares_C.tolist(), strict=True)),
    }


def decision(task: TextClassification, outputs: Floats) -> str | None:
    """The label, or the list of them."""
    if task.multi_label:
        return label_sets.decision(thresholds_of(task), labels_of(task), outputs)
    return labels_of(task)[int(outputs[0].argmax())]


def line(answer: Answer) -> str:
    """The label and its probability; or each label given."""
    if "labels" in answer:
        return label_sets.line(answer)
    return f"{answer['label']}  {answer['score']:.4f}"


def softmax(scores_NC: Floats) -> npt.NDArray[np.float64]:
    """Probabilities [N, C]."""
    if not scores_NC.size:
        return scores_NC.astype(np.float64)
    shifted_NC = np.exp(scores_NC.astype(np.float64) - scores_NC.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float64] = shifted_NC / shifted_NC.sum(axis=1, keepdims=True)
    return found


def bundle_files(task: TextClassification) -> Mapping[str, Any]:
    """The label names in order; with multi_label their thresholds too."""
    names = list(labels_of(task))
    return {LABELS: {"labels": names, "thresholds": thresholds_of(task).tolist()} if task.multi_label else names}


def from_bundle(task: TextClassification, read: Callable[[str], Any]) -> TextClassification:
    """The task with the labels that the bundle names. Raises ValueError."""
    names, thresholds = label_sets.read_bundle(read, LABELS) if task.multi_label else (read(LABELS), ())
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{LABELS} is not a list of label names")
    if len(set(names)) < len(names):
        raise ValueError(f"{LABELS} has a name twice")
    return replace(task, labels=tuple(names), thresholds=thresholds)


def name_faults(task: TextClassification, config: Any) -> tuple[int, tuple[str, ...]]:
    """How many label names config.json has, and where they are not those of labels.json."""
    ours, named = labels_of(task), _config_labels(config)
    faults = [
        f"number {number} is {our} in {LABELS} and {their} in config.json"
        for number, (our, their) in enumerate(zip(ours, named, strict=False))
        if our != their
    ]
    if len(named) != len(ours):
        faults.append(f"{len(ours)} in {LABELS}, {len(named)} in config.json")
    return len(named), tuple(faults)


def _config_labels(config: Any) -> tuple[str, ...]:
    """The label names of a config.json by their numbers; none where it does not name them."""
    names = config.get("id2label") if isinstance(config, dict) else None
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=lambda key: int(key) if key.isdecimal() else -1))
