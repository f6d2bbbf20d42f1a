"""image-classification: one label for an image."""

# B = rows of a batch, C = channels, H = height, W = width

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.data.splits import scramble
from compiler.tasks import Example, ImageClassification
from runtimes.features import Column, Portion
from runtimes.images import PIXELS, ImageReader
from runtimes.protocol import Batch
from runtimes.randomness import number
from runtimes.tasks.interface import Head
from runtimes.tasks.labels import (
    DECIDE,
    answer,
    baseline,
    bundle_files,
    decision,
    detail_lines,
    details,
    from_bundle,
    label_head,
    line,
    losses,
    name_faults,
    score,
    settle,
    weights,
)

__all__ = [
    "DECIDE",
    "VARY",
    "answer",
    "baseline",
    "bundle_files",
    "columns",
    "decision",
    "detail_lines",
    "details",
    "encode",
    "from_bundle",
    "head",
    "line",
    "losses",
    "name_faults",
    "probe_row",
    "score",
    "settle",
    "vary",
    "weights",
]

Rows = npt.NDArray[np.int64]


def head(task: ImageClassification) -> Head:
    """One logit for each label."""
    return label_head(task, "AutoModelForImageClassification", "")


# --- rows -> arrays


def columns(task: ImageClassification, reader: ImageReader | None) -> tuple[Column, ...]:
    """The pixels, scaled when they are batched, and the label's number."""
    assert task.shape != "auto", "a plan's shape is resolved"
    num_channels = task.shape[0]
    center = reader.processor.center if reader else (0.0,) * num_channels
    spread = reader.processor.spread if reader else (1.0,) * num_channels
    pixels = Column(name=PIXELS, dtype="uint8", shape=task.shape, center=center, spread=spread)
    return (pixels, Column(name="targets", dtype="int64"))


def encode(task: ImageClassification, examples: Sequence[Example], reader: ImageReader) -> Portion:
    """The columns of some rows."""
    pixels = np.stack([reader.pixels(example.row["image"]) for example in examples])
    targets = np.array([example.target for example in examples], np.int64)
    return Portion(ragged={}, fixed={PIXELS: pixels, "targets": targets}, truncated=0)


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


def probe_row(value: str) -> Mapping[str, Any]:
    """A row without a label."""
    return {"image": value}
