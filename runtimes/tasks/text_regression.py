"""text-regression: numbers for a text. Outputs and targets are in the rows' own units everywhere but in the loss."""

# N = rows of a split, B = rows of a batch, C = targets where a task names several

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from compiler.tasks import Example, TextRegression, texts_of
from runtimes.metrics.values import score_values
from runtimes.rows.encoding import encode_texts, text_columns
from runtimes.rows.features import Column, Portion, Ragged
from runtimes.rows.tokens import Encoder
from runtimes.tasks import several_targets
from runtimes.tasks.interface import Answer, Array, Floats, Head, TaskCard
from runtimes.tasks.labels import LABELS, label_faults, listed, read_labels
from runtimes.verification.gate import Scores

VARY = None


def decider(task: TextRegression) -> None:
    """Nothing: numbers are the answer themselves."""


def head(task: TextRegression) -> Head:
    """One output, or one for each target."""
    assert task.mean != "auto" and task.deviation != "auto", "a plan's numbers are resolved"
    count = len(task.targets) or 1
    return Head(
        auto_class="AutoModelForSequenceClassification",
        peft_task="SEQ_CLS",
        config=several_targets.config(task.targets)
        if task.targets
        else {"num_labels": 1, "problem_type": "regression"},
        num_outputs=count,
        scale=several_targets.numbers_of(task.deviation, count),
        shift=several_targets.numbers_of(task.mean, count),
    )


def card(task: TextRegression) -> TaskCard:
    """A number for a text: the hub has no word of its own for it."""
    says = f"Gives a text the numbers {listed(task.targets)}." if task.targets else "Gives a text a number."
    return TaskCard(pipeline_tag="text-classification", says=says, tags=("regression",))


# --- rows -> arrays


def columns(task: TextRegression, pad_token_id: int) -> tuple[Column, ...]:
    """The tokens of the text, and the target or targets."""
    shape = (len(task.targets),) if task.targets else ()
    return (*text_columns(pad_token_id), Column(name="targets", dtype="float32", shape=shape))


def encode(task: TextRegression, examples: Sequence[Example], encoder: Encoder) -> Portion:
    """The columns of some rows."""
    targets = (
        several_targets.targets_of([example.row for example in examples], task.targets)
        if task.targets
        else np.array([example.target for example in examples], np.float32)
    )
    return encode_texts([texts_of(task, example.row) for example in examples], encoder, {"targets": targets})


def weights(task: TextRegression, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B] ones; [B, C] of each target."""
    return np.ones(targets.shape, np.float32)


# --- measuring


def losses(loss: Loss, task: TextRegression, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] the loss of each row, or [N, C] of each target; differences in standard deviations of the train rows."""
    given = outputs.astype(np.float64) if task.targets else outputs[:, 0].astype(np.float64)
    away: npt.NDArray[np.float64] = np.abs(given - targets) / np.asarray(head(task).scale)
    match loss:
        case MeanSquaredError():
            return away**2
        case MeanAbsoluteError():
            return away
        case Huber(delta=delta):
            return np.where(away <= delta, away**2 / 2, delta * (away - delta / 2))
        case CrossEntropy() | BinaryCrossEntropy() | Focal():
            raise ValueError(f"{loss.type} is for labels")
        case _:
            assert_never(loss)


def score(task: TextRegression, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name, in the targets' unit; of several targets the mean."""
    if task.targets:
        return several_targets.score(metrics, targets, outputs)
    return score_values(metrics, targets.values, outputs.values[:, 0])


def details(task: TextRegression, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None) -> dict[str, Any]:
    """Nothing beside the metrics; of several targets those of each."""
    return several_targets.details(task.targets, targets, outputs, unlearnt) if task.targets else {}


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """The figures of each target, where there are several."""
    return several_targets.detail_lines(details["by_target"]) if "by_target" in details else []


def baseline(task: TextRegression, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the mean of the train rows."""
    if task.targets:
        return several_targets.baseline(train_targets, count)
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
    settled: Scores = np.where(np.abs(source - other) <= tolerance * np.asarray(head(task).units), source, other)
    return settled


def probe_row(text: str) -> Mapping[str, Any]:
    """A row without targets."""
    return {"text": text}


# --- answering


def answer(task: TextRegression, row: Mapping[str, Any], outputs: Floats, encoder: Encoder) -> Answer:
    """The number, or each by the name of its target."""
    return several_targets.answer(task.targets, outputs) if task.targets else {"value": float(outputs[0, 0])}


def decision(task: TextRegression, outputs: Floats) -> str | None:
    """Nothing: a number is no decision."""
    return None


def line(answer: Answer) -> str:
    """The number, or each with the name of its target."""
    return several_targets.line(answer["values"]) if "values" in answer else f"{answer['value']:.4f}"


def bundle_files(task: TextRegression) -> Mapping[str, Any]:
    """The names of the targets in order; none where there is one number, which needs no name."""
    return {LABELS: list(task.targets)} if task.targets else {}


def from_bundle(task: TextRegression, read: Callable[[str], Any]) -> TextRegression:
    """The task as the manifest has it, with the targets that the bundle names. Raises ValueError."""
    return replace(task, targets=read_labels(read)) if task.targets else task


def name_faults(task: TextRegression, config: Any) -> tuple[int, tuple[str, ...]]:
    """Whether config.json speaks of numbers too, as readers of the transformers layout ask it, and names the same."""
    found = config.get("problem_type") if isinstance(config, dict) else None
    named, faults = label_faults(task.targets, config) if task.targets else (0, ())
    wrong = () if found == "regression" else (f"problem_type in config.json is {found}, not regression",)
    return 1 + named, (*wrong, *faults)
