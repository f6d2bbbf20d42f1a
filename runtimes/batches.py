"""Which rows make up each step, and their padded arrays: functions of the plan, the same for every engine."""

# N = rows, B = rows of a batch, T = tokens

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from runtimes.features import TARGETS, TOKENS, Features
from runtimes.protocol import Batch
from runtimes.randomness import number, order

Rows = npt.NDArray[np.int64]
Weigh = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]

# Rows that are grouped by length together. All of an epoch up to here; beyond, memory and shuffling ask for a limit.
WINDOW = 100_000


def evenly(targets: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """[B] ones: every row counts the same."""
    return np.ones(len(targets), np.float32)


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


def collate(features: Features, rows: Rows, *, grid: Sequence[int], weigh: Weigh = evenly, fill_to: int = 0) -> Batch:
    """Rows padded to the smallest length of the grid; rows of weight zero fill the batch up to `fill_to` rows.

    `weigh`: from targets [B] to the rows' weights [B] in the loss.
    """
    fill = max(0, fill_to - len(rows))
    inputs = {name: _filled(values, fill) for name, values in _inputs(features, rows, grid)}
    targets = features.targets[rows]
    return Batch(
        inputs=inputs,
        targets=_filled(targets, fill),
        weights=np.concatenate([weigh(targets), np.zeros(fill, np.float32)]),
        rows=np.concatenate([rows, np.full(fill, -1, np.int64)]),
    )


def _inputs(features: Features, rows: Rows, grid: Sequence[int]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The arrays of a batch by the model's argument name; the mask says where there are tokens."""
    masks = {axis: _mask(offsets, rows, grid) for axis, offsets in features.offsets.items()}
    if TOKENS in masks:
        yield "attention_mask", masks[TOKENS].astype(np.int64)
    for name, column in features.columns.items():
        if name == TARGETS:
            continue
        if not column.axis:
            yield name, features.arrays[name][rows]
            continue
        mask = masks[column.axis]
        places = (features.offsets[column.axis][rows][:, None] + np.arange(mask.shape[1]))[mask]
        yield name, _placed(features.arrays[name][places], mask, column.padding)


def _mask(offsets: npt.NDArray[np.int64], rows: Rows, grid: Sequence[int]) -> npt.NDArray[np.bool_]:
    """[B, T] where a row has a value of its own."""
    lengths = offsets[rows + 1] - offsets[rows]
    return np.arange(int(padded_lengths(lengths, grid).max())) < lengths[:, None]


def _placed(values: npt.NDArray[Any], mask: npt.NDArray[np.bool_], padding: int) -> npt.NDArray[Any]:
    """[B, T] whole numbers as int64, as models take them; fractions as they are."""
    placed = np.full(mask.shape, padding, values.dtype if values.dtype.kind == "f" else np.int64)
    placed[mask] = values
    return placed


def _filled(values: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    """`fill` copies of the first row are appended: a row that an engine can compute without special cases."""
    return np.concatenate([values, np.repeat(values[:1], fill, axis=0)])
