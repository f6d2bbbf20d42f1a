"""Which rows make up each step, and their padded arrays: functions of the plan, the same for every engine."""

# N = rows, B = rows of a batch, T = tokens

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.balance import Draw, rows_of_each
from compiler.lengths import length_grid
from runtimes.protocol import Batch
from runtimes.randomness import number, order
from runtimes.rows.features import LABELS, TARGETS, TOKENS, Ragged, Table, is_answered

Rows = npt.NDArray[np.int64]
Weigh = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]
Vary = Callable[[Batch], Batch]
"""From the values of train rows as they are stored to those that are learnt from."""

# Rows that are grouped by length together. All of an epoch up to here; beyond, memory and shuffling ask for a limit.
WINDOW = 100_000


def evenly(targets: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Ones in the shape of the targets, and zeros where there is nothing to answer: each counts the same."""
    return np.asarray(is_answered(targets), np.float32)


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


def epoch_rows(classes: Rows, *, draw: Draw, seed: int, epoch: int) -> Rows:
    """The rows of an epoch: every one, or as many of each class [N]; a class's rows as often as each other, or nearly.

    Which ones stand once more, or are left out, is drawn anew in each epoch.
    """
    if draw == "every":
        return np.arange(len(classes))
    each = rows_of_each(draw, np.bincount(classes).tolist())
    of_class = {int(one): np.flatnonzero(classes == one) for one in np.unique(classes)}
    drawn = [np.resize(rows[order(len(rows), seed, epoch, "class", one)], each) for one, rows in of_class.items()]
    return np.sort(np.concatenate(drawn))


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


def as_it_is(batch: Batch) -> Batch:
    """The batch itself."""
    return batch


def collate(
    table: Table,
    rows: Rows,
    *,
    grid: Sequence[int] = (),
    weigh: Weigh = evenly,
    vary: Vary = as_it_is,
    fill_to: int = 0,
) -> Batch:
    """Rows padded to the smallest length of the grid; rows of weight zero fill the batch up to `fill_to` rows.

    Without a grid they are padded to the longest of them. What a model writes has a grid of its own, up to the longest
    of the table. `weigh`: from targets to their weights in the loss. `vary` is given the rows' values as they are
    stored, and may change them and the targets.
    """
    batch = vary(_stored(table, rows, grid))
    fill = max(0, fill_to - len(rows))
    inputs = {
        name: table.columns[name].scaled(values) if name in table.columns else values
        for name, values in batch.inputs.items()
    }
    return Batch(
        inputs={name: _filled(values, fill) for name, values in inputs.items()},
        targets=_filled(batch.targets, fill),
        weights=_followed(weigh(batch.targets), fill),
        positions=_followed(batch.positions, fill),
        rows=np.concatenate([rows, np.full(fill, -1, np.int64)]),
    )


def _stored(table: Table, rows: Rows, grid: Sequence[int]) -> Batch:
    """The rows' values as they are stored, padded, each target of the same weight."""
    written = length_grid(table.longest_labels) if grid else ()
    masks = {axis: _mask(offsets, rows, written if axis == LABELS else grid) for axis, offsets in table.offsets.items()}
    inputs = {name: _placed(table, name, rows, masks) for name in table.columns if name != TARGETS}
    if TOKENS in masks:
        inputs = {"attention_mask": masks[TOKENS].astype(np.int64), **inputs}
    targets = _placed(table, TARGETS, rows, masks)
    axis = table.columns[TARGETS].axis
    answered = masks[axis] if axis else np.ones(len(rows), bool)
    return Batch(inputs=inputs, targets=targets, weights=evenly(targets), positions=answered, rows=rows)


def _mask(offsets: npt.NDArray[np.int64], rows: Rows, grid: Sequence[int]) -> npt.NDArray[np.bool_]:
    """[B, T] where a row has a value of its own."""
    lengths = offsets[rows + 1] - offsets[rows]
    longest = int(padded_lengths(lengths, grid).max()) if grid else max(1, int(lengths.max()))
    return np.arange(longest) < lengths[:, None]


def _placed(table: Table, name: str, rows: Rows, masks: Mapping[str, npt.NDArray[np.bool_]]) -> npt.NDArray[Any]:
    """[B] or [B, T] the values of a column; padded ones are int64, as models take them, or fractions."""
    column = table.columns[name]
    if not column.axis:
        return table.arrays[name][rows]
    values, mask = table.ragged(name).take(rows).values, masks[column.axis]
    placed = np.full(mask.shape, column.padding, values.dtype if values.dtype.kind == "f" else np.int64)
    placed[mask] = values
    return placed


def _filled(values: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    """`fill` copies of the first row are appended: a row that an engine can compute without special cases."""
    return np.concatenate([values, np.repeat(values[:1], fill, axis=0)])


def _followed(values: npt.NDArray[Any], fill: int) -> npt.NDArray[Any]:
    """`fill` rows of zeros are appended."""
    return np.concatenate([values, np.zeros((fill, *values.shape[1:]), values.dtype)])


def answered(batch: Batch, values: npt.NDArray[Any]) -> Ragged:
    """What belongs to the rows of a batch, of values [B, ...] or [B, T, ...]: neither padding nor filling rows."""
    counts = batch.positions.reshape(len(batch.rows), -1).sum(axis=1)[batch.rows >= 0]
    return Ragged(values[batch.positions], np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))


def in_order(batches: Sequence[Rows], found: Sequence[Ragged]) -> Ragged:
    """The values of batches as those of rows 0, 1, 2, ...; one batch at least."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([part.lengths for part in found]))])
    return Ragged(np.concatenate([part.values for part in found]), offsets).take(np.argsort(np.concatenate(batches)))
