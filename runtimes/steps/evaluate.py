"""evaluate: the tuned model's metrics on the held-out rows, beside what needs no tuning."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.files import write_json
from compiler.hub import fetch_model
from compiler.plan import Evaluate, Train
from runtimes.backends import backend
from runtimes.batches import collate, evaluation_batches
from runtimes.events import Progress, Said
from runtimes.features import Features
from runtimes.gate import ScoreFunction
from runtimes.metrics import confusion_matrix, score
from runtimes.steps import Context

_BATCH_SIZE = 32


def execute(step: Evaluate, context: Context) -> Iterator[Any]:
    """Scores the tuned model, the majority class, and the model before tuning where its own head has these labels."""
    train = context.plan.step("train")
    assert isinstance(train, Train)
    features = Features(context.inputs["prepare"] / step.split)
    base = fetch_model(train.model, context.root, context.sources)
    back, device = backend(context.placement.engine), context.placement.device
    tuned = back.trained_scores(train, context.inputs["train"], base, device)
    scores = yield from _scores(tuned, features, train, step.id)
    result = {"split": step.split, "rows": len(features), **_figures(step, features, scores)}
    result["baseline"] = {"majority": _majority(step, Features(context.inputs["prepare"] / "train"), features)}
    if step.baseline_model is not None:
        before = yield from _scores(back.model_scores(base, device), features, train, step.id)
        result["baseline"]["untuned"] = _figures(step, features, before)["metrics"]
    write_json(context.folder / "evaluation.json", result)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    yield Said(step=step.id, message=f"{len(features):,} {step.split} rows: {shown}")


def _scores(
    function: ScoreFunction, features: Features, train: Train, step_id: str
) -> Generator[Progress, None, npt.NDArray[np.float32]]:
    """Yields progress; returns the scores [N, C] of every row, in the split's order."""
    found = np.zeros((len(features), len(train.labels)), np.float32)
    batches = evaluation_batches(features.lengths, _BATCH_SIZE)
    for done, rows in enumerate(batches):
        batch = collate(features, rows, grid=train.lengths, class_weights=(1.0,) * len(train.labels))
        found[rows] = function(batch)
        yield Progress(step=step_id, done=done + 1, total=len(batches), unit="batches")
    return found


def _figures(step: Evaluate, features: Features, scores: npt.NDArray[np.float32]) -> dict[str, Any]:
    targets = np.asarray(features.labels)
    matrix = confusion_matrix(targets, scores.argmax(axis=1), len(step.labels))
    metrics = score(step.metrics, targets, scores, step.labels, losses=_losses(scores, targets))
    confusion = {"labels": list(step.labels), "rows_true_columns_decided": matrix.tolist()}
    return {"metrics": metrics, "confusion": confusion}


def _losses(scores: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Cross-entropy of each row in nats, [N]."""
    logits = scores.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]
    return found


def _majority(step: Evaluate, train: Features, held_out: Features) -> dict[str, float]:
    """The metrics of always answering the commonest label of the train rows."""
    counts = np.bincount(np.asarray(train.labels), minlength=len(step.labels))
    scores = np.zeros((len(held_out), len(step.labels)), np.float32)
    scores[:, int(counts.argmax())] = 1.0
    return score(step.metrics, np.asarray(held_out.labels), scores, step.labels)
