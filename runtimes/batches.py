"""Which rows make up each step, and their padded arrays: functions of the plan, the same for every engine."""

# N = rows, B = rows of a batch, T = tokens

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from runtimes.features import Features
from runtimes.protocol import Batch
from runtimes.randomness import number, order

Rows = npt.NDArray[np.int64]

# Rows that are grouped by length together. All of an epoch up to here; beyond, memory and shuffling ask for a limit.
WINDOW = 100_000


def padded_lengths(lengths: npt.NDArray[np.int64], grid: Sequence[int]) -> npt.NDArray[np.int64]:
    """[N] the smallest length of the ascending grid that holds each row."""
    steps = np.asarray(grid, np.int64)
    places = np.searchsorted(steps, lengths)
    if len(lengths) and places.max() == len(steps):
        raise ValueError(f"a row of {lengths.max()} tokens is longer than the longest batch, {steps[-1]}")
    return steps[places]


def num_batches(num_rows: int, batch_size: int) -> int:
    """Optimizer steps of an epoch; the last, smaller one counts."""
    return -(-num_rows // batch_size)


def epoch_batches(lengths: npt.NDArray[np.int64], *, batch_size: int, seed: int, epoch: int) -> tuple[Rows, ...]:
    """The rows of each optimizer step of an epoch, every row once; rows of like length stand together.

    `lengths`: padded ones, so that rows of one padded length mix freely. Shuffled rows are sorted by length within
    windows, cut into batches, and the batches are shuffled. One batch is short when batch_size does not divide N.
    """
    shuffled = order(len(lengths), seed, epoch, "rows")
    window = max(1, WINDOW // batch_size) * batch_size
    batches: list[Rows] = []
    for start in range(0, len(shuffled), window):
        rows = shuffled[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches.extend(_cut(rows, batch_size, number(seed, epoch, "short batch")))
    return tuple(batches[place] for place in order(len(batches), seed, epoch, "batches"))


def _cut(rows: Rows, batch_size: int, place: int) -> list[Rows]:
    """Batches of rows; the short one is anywhere, so that it is not the longest rows that always weigh more."""
    count = num_batches(len(rows), batch_size)
    sizes = np.full(count, batch_size)
    sizes[place % count] -= count * batch_size - len(rows)
    return np.split(rows, np.cumsum(sizes)[:-1])


def micro_batches(rows: Rows, lengths: npt.NDArray[np.int64], size: int) -> tuple[Rows, ...]:
    """A step's rows in portions of `size`, longest rows first to pad little; the last may be smaller."""
    longest_first = rows[np.argsort(-lengths[rows], kind="stable")]
    return tuple(longest_first[start : start + size] for start in range(0, len(rows), size))


def evaluation_batches(lengths: npt.NDArray[np.int64], size: int) -> tuple[Rows, ...]:
    """Every row once, longest rows first."""
    return micro_batches(np.arange(len(lengths)), lengths, size)


def collate(
    features: Features, rows: Rows, *, grid: Sequence[int], class_weights: Sequence[float], fill_to: int = 0
) -> Batch:
    """Rows padded to the smallest length of the grid; rows of weight zero fill the batch up to `fill_to` rows.

    The weight of a row is that of its label.
    """
    starts = features.offsets[rows]
    lengths = features.offsets[rows + 1] - starts
    positions = np.arange(int(padded_lengths(lengths, grid).max()))
    mask = positions < lengths[:, None]
    places = (starts[:, None] + positions)[mask]
    labels = features.labels[rows]
    fill = max(0, fill_to - len(rows))
    inputs = {"input_ids": _placed(features.tokens[places], mask, features.facts.pad_token_id)}
    inputs["attention_mask"] = mask.astype(np.int64)
    if features.type_ids is not None:
        inputs["token_type_ids"] = _placed(features.type_ids[places], mask, 0)
    return Batch(
        inputs={name: _filled(values, fill) for name, values in inputs.items()},
        targets=_filled(labels, fill),
        weights=np.concatenate([np.asarray(class_weights, np.float32)[labels], np.zeros(fill, np.float32)]),
        rows=np.concatenate([rows, np.full(fill, -1, np.int64)]),
    )


def _placed(values: npt.NDArray[np.generic], mask: npt.NDArray[np.bool_], padding: int) -> npt.NDArray[np.int64]:
    placed = np.full(mask.shape, padding, np.int64)
    placed[mask] = values
    return placed


def _filled(values: npt.NDArray[np.int64], fill: int) -> npt.NDArray[np.int64]:
    """`fill` copies of the first row are appended: a row that an engine can compute without special cases."""
    return np.concatenate([values, np.repeat(values[:1], fill, axis=0)])
