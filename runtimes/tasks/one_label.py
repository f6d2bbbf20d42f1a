"""One label a row: what the tasks share that answer with the best of a few names."""

# N = rows of a split, B = rows of a batch, C = labels

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.diagnostics import printable, short
from compiler.metrics import AUROC, Metric, name_of
from compiler.recipe import CrossEntropy, Focal, Loss
from runtimes.metrics.decisions import confusion_matrix, score_decisions
from runtimes.metrics.ranking import score_ranking
from runtimes.rows.features import Ragged
from runtimes.tasks.interface import Answer, Array, Floats, Head
from runtimes.tasks.labels import cross_entropy, label_config, label_weights, softmax
from runtimes.verification.gate import Scores

Names = Sequence[str]
_MOST_SHOWN = 12  # labels of a confusion matrix on a terminal


def head(names: Names, auto_class: str, peft_task: str) -> Head:
    """One logit for each label."""
    config = {**label_config(names), "problem_type": "single_label_classification"}
    return Head(auto_class=auto_class, peft_task=peft_task, config=config, num_outputs=len(names))


def weights(loss: Loss, names: Names, targets: Array) -> npt.NDArray[np.float32]:
    """[B] the weight of each row's label."""
    assert isinstance(loss, (CrossEntropy, Focal)), "checked by check_loss"
    return label_weights(loss, names)[targets]


def losses(loss: Loss, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] the loss of each row; cross-entropy in nats."""
    found = cross_entropy(outputs, targets)
    return found * (-np.expm1(-found)) ** loss.gamma if isinstance(loss, Focal) else found


def score(metrics: Sequence[Metric], names: Names, targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name. The decision is the label of the highest logit, the first of equal ones."""
    decided = outputs.values.argmax(axis=1)
    of_scores = [metric for metric in metrics if isinstance(metric, AUROC)]
    found = score_decisions([one for one in metrics if one not in of_scores], targets.values, decided, names)
    found |= score_ranking(of_scores, targets.values, softmax(outputs.values), names) if of_scores else {}
    return {name: found[name] for name in map(name_of, metrics)}


def details(names: Names, targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """The confusion matrix."""
    matrix = confusion_matrix(targets.values, outputs.values.argmax(axis=1), len(names))
    return {"confusion": {"labels": list(names), "rows_true_columns_decided": matrix.tolist()}}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """The confusion matrix for a terminal, unless there are too many labels for one."""
    confusion = details["confusion"]
    labels = [short(printable(label)) for label in confusion["labels"]]
    if len(labels) > _MOST_SHOWN:
        return []
    width = max(8, *(len(label) + 2 for label in labels))
    lines = [
        "    confusion (rows: true, columns: decided)",
        "    " + " " * width + "".join(f"{name:>{width}}" for name in labels),
    ]
    for name, row in zip(labels, confusion["rows_true_columns_decided"], strict=True):
        lines.append(f"    {name:<{width}}" + "".join(f"{count:>{width},}" for count in row))
    return lines


def baseline(names: Names, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the commonest label of the train rows."""
    counts = np.bincount(train_targets, minlength=len(names))
    outputs = np.zeros((count, len(counts)), np.float32)
    outputs[:, int(counts.argmax())] = 1.0
    return "majority", outputs


def settle(source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float) -> Scores:
    """The other side's logits, but the source's in the excused rows, so that near ties move no metric.

    Likewise where both are within the tolerance, whose rounding could swap the ranks of rows; but a row that is decided
    otherwise and not excused counts as it was decided.
    """
    if source.shape != other.shape or not source.size:
        return other
    alike_N = (np.abs(source - other) <= tolerance).all(axis=1) & (source.argmax(axis=1) == other.argmax(axis=1))
    settled_NC: Scores = np.where((excused | alike_N)[:, None], source, other)
    return settled_NC


def answer(names: Names, outputs: Floats) -> Answer:
    """The label decided, its probability, and that of every label."""
    [shares_C] = softmax(outputs)
    best = int(shares_C.argmax())
    return {
        "label": names[best],
        "score": float(shares_C[best]),
        "scores": dict(zip(names, shares_C.tolist(), strict=True)),
    }


def decision(names: Names, outputs: Floats) -> str:
    """The label."""
    return names[int(outputs[0].argmax())]


def line(answer: Answer) -> str:
    """The label and its probability."""
    return f"{answer['label']}  {answer['score']:.4f}"
