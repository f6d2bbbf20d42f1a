"""text-regression: a number for a text. Outputs and targets are in the rows' own unit everywhere but in the loss."""

# N = rows of a split, B = rows of a batch

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from compiler.tasks import Example, TextRegression, texts_of
from runtimes.encoding import encode_texts, text_columns
from runtimes.features import Column, Portion, Ragged
from runtimes.gate import Scores
from runtimes.metrics.values import score_values
from runtimes.tasks.interface import Answer, Array, Floats, Head
from runtimes.tokens import Encoder

VARY = None


def decider(task: TextRegression) -> None:
    """Nothing: numbers are the answer themselves."""


def head(task: TextRegression) -> Head:
    """One output."""
    assert task.mean != "auto" and task.deviation != "auto", "a plan's numbers are resolved"
    return Head(
        auto_class="AutoModelForSequenceClassification",
        peft_task="SEQ_CLS",
        config={"num_labels": 1, "problem_type": "regression"},
        num_outputs=1,
        scale=task.deviation,
        shift=task.mean,
    )


# --- rows -> arrays


def columns(task: TextRegression, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and the target."""
    return (*text_columns(pad_token_id), Column(name="targets", dtype="float32"))


def encode(task: TextRegression, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    targets = np.array([example.target for example in examples], np.float32)
    return encode_texts([texts_of(task, example.row) for example in examples], encoder, {"targets": targets})


def weights(task: TextRegression, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B] ones."""
    return np.ones(len(targets), np.float32)


# --- measuring


def losses(loss: Loss, task: TextRegression, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] the loss of each row, differences in standard deviations of the train rows."""
    away_N = np.abs(outputs[:, 0].astype(np.float64) - targets) / head(task).scale
    match loss:
        case MeanSquaredError():
            return away_N**2
        case MeanAbsoluteError():
            return away_N
        case Huber(delta=delta):
            return np.where(away_N <= delta, away_N**2 / 2, delta * (away_N - delta / 2))
        case CrossEntropy() | BinaryCrossEntropy() | Focal():
            raise ValueError(f"{loss.type} is for labels")
        case _:
            assert_never(loss)


def score(task: TextRegression, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name, in the targets' unit."""
    return score_values(metrics, targets.values, outputs.values[:, 0])


def details(task: TextRegression, targets: Ragged, outputs: Ragged) -> dict[str, Any]:
    """Nothing beside the metrics."""
    return {}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """None."""
    return []


def baseline(task: TextRegression, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the mean of the train rows."""
    return "mean", np.full((count, 1), np.mean(train_targets, dtype=np.float64), np.float32)


def learns(task: TextRegression) -> bool:
    """Nothing."""
    return False


def fit(task: TextRegression, targets: Ragged, outputs: Ragged) -> TextRegression:
    """The task as it is."""
    return task


# --- comparing


def settle(
    task: TextRegression, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
) -> Scores:
    """The other side's numbers, but the source's where both are within the tolerance: rounding moves no metric."""
    if source.shape != other.shape:
        return other
    settled: Scores = np.where(np.abs(source - other) <= tolerance, source, other)
    return settled


def probe_row(text: str) -> Mapping[str, Any]:
    """A row without a target."""
    return {"text": text}


# --- answering


def answer(task: TextRegression, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """The number."""
    return {"value": float(outputs[0, 0])}


def decision(task: TextRegression, outputs: Floats) -> str | None:
    """Nothing: a number is no decision."""
    return None


def line(answer: Answer) -> str:
    """The number."""
    return f"{answer['value']:.4f}"


def bundle_files(task: TextRegression) -> Mapping[str, Any]:
    """None: a number needs no name."""
    return {}


def from_bundle(task: TextRegression, read: Callable[[str], Any]) -> TextRegression:
    """The task as the manifest has it."""
    return task


def name_faults(task: TextRegression, config: Any) -> tuple[int, tuple[str, ...]]:
    """Whether config.json speaks of a number too, as readers of the transformers layout ask it."""
    found = config.get("problem_type") if isinstance(config, dict) else None
    return 1, () if found == "regression" else (f"problem_type in config.json is {found}, not regression",)
