"""Labels: what the tasks share whose answer is one of a few names."""

# N = rows of a split, B = rows of a batch, C = labels

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from compiler.diagnostics import printable, short
from compiler.metrics import Metric
from compiler.recipe import CrossEntropy, Loss
from compiler.tasks import ImageClassification, TextClassification
from runtimes.features import Ragged
from runtimes.gate import Scores, argmax
from runtimes.inputs import InputReader
from runtimes.metrics.decisions import confusion_matrix, score_decisions
from runtimes.tasks.interface import Answer, Array, Floats, Head

LabelTask = TextClassification | ImageClassification
T = TypeVar("T", TextClassification, ImageClassification)
DECIDE = argmax
LABELS = "labels.json"


def label_head(task: LabelTask, auto_class: str, peft_task: str) -> Head:
    """One logit for each label."""
    names = labels_of(task)
    return Head(
        auto_class=auto_class,
        peft_task=peft_task,
        config={
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "single_label_classification",
        },
        num_outputs=len(names),
    )


def labels_of(task: LabelTask) -> tuple[str, ...]:
    """The label names of a task that is resolved."""
    assert task.labels != "auto", "a plan's labels are resolved"
    return task.labels


def weights(task: LabelTask, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B] the weight of each row's label."""
    assert isinstance(loss, CrossEntropy), "checked by check_loss"
    if isinstance(loss.class_weights, str):
        return np.ones(len(targets), np.float32)
    return np.array([loss.class_weights[name] for name in labels_of(task)], np.float32)[targets]


# --- measuring


def losses(loss: Loss, task: LabelTask, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] cross-entropy of each row in nats."""
    logits_NC = outputs.astype(np.float64)
    shifted_NC = logits_NC - logits_NC.max(axis=1, keepdims=True)
    chosen_N = shifted_NC[np.arange(len(targets)), targets]
    found: npt.NDArray[np.float64] = np.log(np.exp(shifted_NC).sum(axis=1)) - chosen_N
    return found


def score(task: LabelTask, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name. The decision is the label of the highest logit, the first of equal ones."""
    return score_decisions(metrics, targets.values, outputs.values.argmax(axis=1), labels_of(task))


def details(task: LabelTask, targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """The confusion matrix."""
    names = labels_of(task)
    matrix = confusion_matrix(targets.values, outputs.values.argmax(axis=1), len(names))
    return {"confusion": {"labels": list(names), "rows_true_columns_decided": matrix.tolist()}}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """The confusion matrix for a terminal, unless there are too many labels for one."""
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


def baseline(task: LabelTask, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the commonest label of the train rows."""
    counts = np.bincount(train_targets, minlength=len(labels_of(task)))
    outputs = np.zeros((count, len(counts)), np.float32)
    outputs[:, int(counts.argmax())] = 1.0
    return "majority", outputs


# --- comparing


def settle(source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float) -> Scores:
    """The other side's logits, but the source's in the excused rows, so that near ties move no metric."""
    if source.shape != other.shape:
        return other
    settled_NC: Scores = np.where(excused[:, None], source, other)
    return settled_NC


# --- answering


def answer(task: LabelTask, row: Mapping[str, Any], outputs: Floats, reader: InputReader) -> Answer:
    """The label decided, its probability, and that of every label."""
    [shares_C] = softmax(outputs)
    best = int(shares_C.argmax())
    names = labels_of(task)
    return {
        "label": names[best],
        "score": float(shares_C[best]),
        "scores": dict(zip(names, shares_C.tolist(), strict=True)),
    }


def decision(task: LabelTask, outputs: Floats) -> str | None:
    """The label."""
    return labels_of(task)[int(outputs[0].argmax())]


def line(answer: Answer) -> str:
    """The label and its probability."""
    return f"{answer['label']}  {answer['score']:.4f}"


def softmax(scores_NC: Floats) -> npt.NDArray[np.float64]:
    """Probabilities [N, C]."""
    if not scores_NC.size:
        return scores_NC.astype(np.float64)
    shifted_NC = np.exp(scores_NC.astype(np.float64) - scores_NC.max(axis=1, keepdims=True))
    found: npt.NDArray[np.float64] = shifted_NC / shifted_NC.sum(axis=1, keepdims=True)
    return found


def bundle_files(task: LabelTask) -> Mapping[str, Any]:
    """The label names in order."""
    return {LABELS: list(labels_of(task))}


def from_bundle(task: T, read: Callable[[str], Any]) -> T:
    """The task with the labels that the bundle names. Raises ValueError."""
    names = read(LABELS)
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{LABELS} is not a list of label names")
    if len(set(names)) < len(names):
        raise ValueError(f"{LABELS} has a name twice")
    return replace(task, labels=tuple(names))


def name_faults(task: LabelTask, config: Any) -> tuple[int, tuple[str, ...]]:
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
