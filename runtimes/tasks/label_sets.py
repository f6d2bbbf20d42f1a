"""What differs where a row may have several labels: each is decided by itself, at a threshold of its own."""

# N = rows, C = labels

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.diagnostics import printable, short
from compiler.metrics import Metric
from compiler.recipe import Focal, Loss
from runtimes.metrics.averages import ratios
from runtimes.metrics.label_sets import best_threshold, counts_of, score_label_sets
from runtimes.rows.features import Ragged
from runtimes.tasks.interface import Answer, Array, Floats
from runtimes.verification.gate import Decide, Scores

_DIGITS = 6  # of a learnt threshold
_SURE = 30.0  # a logit that is above every threshold

Thresholds = npt.NDArray[np.float64]
"""[C] the share, between 0 and 1, at which each label is given."""


def targets_of(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> npt.NDArray[np.float32]:
    """[N, C] one where a row has a label."""
    places = {name: place for place, name in enumerate(labels)}
    found = np.zeros((len(rows), len(labels)), np.float32)
    for number, row in enumerate(rows):
        found[number, [places[name] for name in row.get("label", ())]] = 1.0
    return found


def weights(class_weights: Mapping[str, float] | str, labels: Sequence[str], targets: Array) -> npt.NDArray[np.float32]:
    """[B, C] one, and the label's weight where a row has it."""
    if isinstance(class_weights, str):
        return np.ones(targets.shape, np.float32)
    weights_C = np.array([class_weights[name] for name in labels], np.float32)
    return np.where(targets > 0, weights_C, np.float32(1.0))


def losses(loss: Loss, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N, C] the loss of each label of each row; binary cross-entropy in nats."""
    logits = outputs.astype(np.float64)
    found: npt.NDArray[np.float64] = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    return found * (-np.expm1(-found)) ** loss.gamma if isinstance(loss, Focal) else found


def decider(thresholds: Thresholds) -> Decide:
    """Each label by itself: whether its logit is above that of its threshold."""
    return partial(_decide, np.log(thresholds / (1 - thresholds)))


def _decide(
    logits_C: npt.NDArray[np.float64], outputs: Scores
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    above = outputs.astype(np.float64) - logits_C
    return (above > 0).astype(np.int64), np.abs(above)


def given(thresholds: Thresholds, outputs: Scores) -> npt.NDArray[np.bool_]:
    """[N, C] which labels are given."""
    return decider(thresholds)(outputs)[0] > 0


def fit(targets: Ragged, outputs: Ragged) -> tuple[float, ...]:
    """The threshold of each label with the best F1 on some rows; a half for one that no row has."""
    truth, logits = targets.values > 0, outputs.values
    best = (best_threshold(truth[:, label], logits[:, label]) for label in range(truth.shape[1]))
    return tuple(0.5 if one is None else _rounded(1 / (1 + np.exp(-one))) for one in best)


def _rounded(share: float) -> float:
    """A share with few digits, inside of 0 and 1."""
    return float(f"{min(max(share, 1e-6), 1 - 1e-6):.{_DIGITS}g}")


def score(
    metrics: Sequence[Metric], thresholds: Thresholds, labels: Sequence[str], targets: Ragged, outputs: Ragged
) -> dict[str, float]:
    """Each metric by its name."""
    return score_label_sets(metrics, targets.values > 0, given(thresholds, outputs.values), outputs.values, labels)


def details(thresholds: Thresholds, labels: Sequence[str], targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """Precision, recall and F1 of each label, its threshold, and how many rows have it."""
    counts = counts_of(targets.values > 0, given(thresholds, outputs.values))
    columns = {kind: ratios(kind, *counts).tolist() for kind in ("precision", "recall", "f1")}
    return {
        "by_label": [
            {
                "label": label,
                "rows": int(counts[2][place]),
                "threshold": float(thresholds[place]),
                **{kind: found[place] for kind, found in columns.items()},
            }
            for place, label in enumerate(labels)
        ]
    }


def detail_lines(by_label: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures of each label for a terminal."""
    names = [short(printable(found["label"])) for found in by_label]
    width = max(12, *(len(name) + 2 for name in names))
    columns = ("precision", "recall", "f1", "threshold")
    lines = ["    " + f"{'label':<{width}}{'rows':>8}" + "".join(f"{column:>12}" for column in columns)]
    for name, found in zip(names, by_label, strict=True):
        figures = "".join(f"{found[column]:>12.4f}" for column in columns)
        lines.append(f"    {name:<{width}}{found['rows']:>8,}{figures}")
    return lines


def baseline(targets: Array, count: int) -> tuple[str, Floats]:
    """Each label where most train rows have it."""
    outputs_C = np.where((targets > 0).mean(axis=0) > 0.5, _SURE, -_SURE)
    return "majority", np.tile(outputs_C.astype(np.float32), (count, 1))


def settle(source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float, decide: Decide) -> Scores:
    """The other side's logits, but the source's where the gate excuses a label, or both are within the tolerance."""
    if source.shape != other.shape or not source.size:
        return other
    alike = (np.abs(source - other) <= tolerance) & (decide(source)[0] == decide(other)[0])
    settled: Scores = np.where(excused | alike, source, other)
    return settled


def answer(thresholds: Thresholds, labels: Sequence[str], outputs: Floats) -> Answer:
    """The labels given, and the share of every label."""
    [logits_C] = outputs.astype(np.float64)
    shares_C = 1 / (1 + np.exp(-logits_C))
    return {"labels": decided(thresholds, labels, outputs), "scores": dict(zip(labels, shares_C.tolist(), strict=True))}


def decided(thresholds: Thresholds, labels: Sequence[str], outputs: Floats) -> list[str]:
    """The labels given to one row."""
    [given_C] = given(thresholds, outputs)
    return [label for label, one in zip(labels, given_C, strict=True) if one]


def decision(thresholds: Thresholds, labels: Sequence[str], outputs: Floats) -> str:
    """The labels given to one row, as JSON."""
    return json.dumps(decided(thresholds, labels, outputs), ensure_ascii=False)


def line(answer: Answer) -> str:
    """The labels given, each with its share."""
    return ", ".join(f"{label} {answer['scores'][label]:.4f}" for label in answer["labels"]) or "no label"


def read_bundle(read: Callable[[str], Any], name: str) -> tuple[Any, tuple[float, ...]]:
    """The label names and the thresholds of a bundle's file. Raises ValueError where the thresholds are none."""
    found = read(name)
    named = found.get("labels") if isinstance(found, dict) else None
    cuts = found.get("thresholds") if isinstance(found, dict) else None
    if not (isinstance(named, list) and isinstance(cuts, list) and len(named) == len(cuts)):
        raise ValueError(f"{name} has not a list of labels and as many thresholds")
    if not all(isinstance(cut, float) and 0 < cut < 1 for cut in cuts):
        raise ValueError(f"{name} has not a threshold between 0 and 1 for each label")
    return named, tuple(cuts)
