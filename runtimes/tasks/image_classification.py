"""image-classification: one label for an image."""

# B = rows of a batch, C = channels, H = height, W = width

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.data.splits import scramble
from compiler.images import PROCESSOR, processor_of
from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import Example, ImageClassification
from compiler.tasks.image_classification import shaped
from runtimes.protocol import Batch
from runtimes.randomness import number
from runtimes.rows.features import Column, Portion, Ragged
from runtimes.rows.images import PIXELS, ImageReader
from runtimes.tasks import one_label
from runtimes.tasks.interface import Answer, Array, Floats, Head, TaskCard
from runtimes.tasks.labels import LABELS, label_faults, listed, read_labels
from runtimes.tasks.one_label import detail_lines, line
from runtimes.verification.gate import Decide, Scores, argmax

__all__ = ["VARY", "detail_lines", "line"]

Rows = npt.NDArray[np.int64]


def head(task: ImageClassification) -> Head:
    """One logit for each label."""
    return one_label.head(labels_of(task), "AutoModelForImageClassification", "")


def labels_of(task: ImageClassification) -> tuple[str, ...]:
    """The label names of a task that is resolved."""
    assert task.labels != "auto", "a plan's labels are resolved"
    return task.labels


def decider(task: ImageClassification) -> Decide:
    """The best label."""
    return argmax


def card(task: ImageClassification) -> TaskCard:
    """A label for an image."""
    says = f"Gives an image one of the labels {listed(labels_of(task))}."
    return TaskCard(pipeline_tag="image-classification", says=says)


# --- rows -> arrays


def columns(task: ImageClassification, pad_token_id: int) -> tuple[Column, ...]:
    """The pixels, which are fractions in a batch, and the label's number."""
    assert task.shape != "auto", "a plan's shape is resolved"
    num_channels = task.shape[0]
    center, spread = (0.0,) * num_channels, (1.0,) * num_channels
    pixels = Column(name=PIXELS, dtype="uint8", shape=task.shape, center=center, spread=spread)
    return (pixels, Column(name="targets", dtype="int64"))


def encode(task: ImageClassification, examples: Sequence[Example], encoder: ImageReader) -> Portion:
    """The columns of some rows."""
    pixels = np.stack([encoder.pixels(example.row["image"]) for example in examples])
    targets = np.array([example.target for example in examples], np.int64)
    return Portion(ragged={}, fixed={PIXELS: pixels, "targets": targets}, truncated=0)


def weights(task: ImageClassification, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
    """[B] the weight of each row's label."""
    return one_label.weights(loss, labels_of(task), targets)


# --- varying


def vary(task: ImageClassification, batch: Batch, *, seed: int, epoch: int) -> Batch:
    """The batch with its images mirrored, moved and coloured otherwise: a function of (seed, epoch, row)."""
    wanted, pixels = task.augmentation, batch.inputs[PIXELS]

    def drawn(what: str) -> npt.NDArray[np.float64]:
        """[B] numbers evenly spread over [0, 1), one for each row."""
        bits = scramble(number(seed, epoch, what), batch.rows)
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    if wanted.flip:
        pixels = np.where((drawn("flip") < 0.5)[:, None, None, None], pixels[..., ::-1], pixels)
    if wanted.crop:
        span = 2 * wanted.crop + 1
        down, right = (np.floor(span * drawn(what)).astype(np.int64) for what in ("crop down", "crop right"))
        pixels = moved(pixels, down, right, wanted.crop)
    if wanted.brightness or wanted.contrast:
        light = 1 + wanted.brightness * (2 * drawn("brightness") - 1)
        contrast = 1 + wanted.contrast * (2 * drawn("contrast") - 1)
        pixels = coloured(pixels, light, contrast)
    return replace(batch, inputs={**batch.inputs, PIXELS: pixels})


VARY = vary


def moved(pixels_BCHW: npt.NDArray[np.uint8], down_B: Rows, right_B: Rows, most: int) -> npt.NDArray[np.uint8]:
    """Images with a black margin of `most` pixels, cut to their size again at a place from 0 to 2 * most each way."""
    height, width = pixels_BCHW.shape[2:]
    padded = np.pad(pixels_BCHW, [(0, 0), (0, 0), (most, most), (most, most)])
    rows = (down_B[:, None] + np.arange(height))[:, None, :, None]
    places = (right_B[:, None] + np.arange(width))[:, None, None, :]
    batch = np.arange(len(padded))[:, None, None, None]
    channels = np.arange(padded.shape[1])[None, :, None, None]
    found: npt.NDArray[np.uint8] = padded[batch, channels, rows, places]
    return found


def coloured(
    pixels_BCHW: npt.NDArray[np.uint8], light_B: npt.NDArray[np.float64], contrast_B: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Images whose values are multiplied, and then moved away from or towards their mean, within 0 to 255."""
    lit = pixels_BCHW * light_B[:, None, None, None]
    means = lit.mean(axis=(1, 2, 3), keepdims=True)
    found = np.clip(means + (lit - means) * contrast_B[:, None, None, None], 0, 255)
    rounded: npt.NDArray[np.uint8] = np.rint(found).astype(np.uint8)
    return rounded


# --- measuring


def losses(loss: Loss, task: ImageClassification, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
    """[N] the loss of each row; cross-entropy in nats."""
    return one_label.losses(loss, targets, outputs)


def score(task: ImageClassification, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
    """Each metric by its name."""
    return one_label.score(metrics, labels_of(task), targets, outputs)


def details(
    task: ImageClassification, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None
) -> dict[str, Any]:
    """The confusion matrix."""
    return one_label.details(labels_of(task), targets, outputs)


def baseline(task: ImageClassification, train_targets: Array, count: int) -> tuple[str, Floats]:
    """Always the commonest label of the train rows."""
    return one_label.baseline(labels_of(task), train_targets, count)


def learns(task: ImageClassification) -> bool:
    """Nothing."""
    return False


def fit(task: ImageClassification, targets: Ragged, outputs: Ragged) -> ImageClassification:
    """The task as it is."""
    return task


# --- comparing


def settle(
    task: ImageClassification, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
) -> Scores:
    """The other side's logits, but the source's where the difference is one that moves no decision."""
    return one_label.settle(source, other, excused, tolerance)


def probe_row(text: str) -> Mapping[str, Any]:
    """A row without a label; the text is a data URI."""
    return {"image": text}


# --- answering


def answer(task: ImageClassification, row: Mapping[str, Any], outputs: Floats, encoder: ImageReader) -> Answer:
    """The label decided, its probability, and that of every label."""
    return one_label.answer(labels_of(task), outputs)


def decision(task: ImageClassification, outputs: Floats) -> str:
    """The label."""
    return one_label.decision(labels_of(task), outputs)


def bundle_files(task: ImageClassification) -> Mapping[str, Any]:
    """The label names in order."""
    return {LABELS: list(labels_of(task))}


def from_bundle(task: ImageClassification, read: Callable[[str], Any]) -> ImageClassification:
    """The task with the labels that the bundle names. Raises ValueError, also where images get another shape."""
    config = read(PROCESSOR)
    if not isinstance(config, dict):
        raise ValueError(f"{PROCESSOR} is not a JSON object")
    return replace(shaped(task, processor_of(config).shape), labels=read_labels(read))


def name_faults(task: ImageClassification, config: Any) -> tuple[int, tuple[str, ...]]:
    """How many label names config.json has, and where they are not those of labels.json."""
    return label_faults(labels_of(task), config)
