"""Reading and writing at positions that are values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from runtimes.mlx.dtypes import Operand, as_array
from runtimes.mlx.ops.shapes import sliced


def embedding(
    weight: mx.array, positions: mx.array, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> mx.array:
    """Rows of a table; the row of padding gets no gradient."""
    rows = weight[positions]
    if padding_idx < 0:
        return rows
    return mx.where(mx.expand_dims(positions == padding_idx, -1), mx.stop_gradient(rows), rows)


def index(x: mx.array, positions: Sequence[mx.array | None]) -> mx.array:
    """X at positions that broadcast against each other; an axis without positions is taken whole."""
    return x[_index(x, positions)]


def index_put(
    x: mx.array, positions: Sequence[mx.array | None], values: mx.array, accumulate: bool = False
) -> mx.array:
    """X with values written, or added, at positions."""
    if len(positions) == 1 and positions[0] is not None and positions[0].dtype == mx.bool_ and values.ndim == 0:
        mask = positions[0].reshape(positions[0].shape + (1,) * (x.ndim - positions[0].ndim))
        return mx.where(mask, (x + values) if accumulate else as_array(values, x.dtype), x)
    at = _grid(x, positions)
    every = mx.broadcast_to(as_array(values, x.dtype), np.broadcast_shapes(*(part.shape for part in at)))
    if accumulate:
        return x.at[at].add(every)
    written = mx.array(x)
    written[at] = every
    return written


def _index(x: mx.array, positions: Sequence[mx.array | None]) -> tuple[mx.array | slice, ...]:
    rest = [None] * (x.ndim - len(positions))
    return tuple(slice(None) if position is None else position for position in (*positions, *rest))


def _grid(x: mx.array, positions: Sequence[mx.array | None]) -> tuple[mx.array, ...]:
    """Positions for every axis, as wide as what they take: MLX can't differentiate writes of whole axes."""
    given = {axis: part for axis, part in enumerate(positions) if part is not None}
    inner = len(np.broadcast_shapes(*(part.shape for part in given.values())))
    axes = sorted(given)
    # As in numpy: positions of neighbouring axes stay in their place, others come first.
    first = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    whole = [axis for axis in range(x.ndim) if axis not in given]
    behind = sum(axis not in range(first) for axis in whole)
    grid: list[mx.array] = []
    for axis in range(x.ndim):
        if axis in given:
            grid.append(given[axis].reshape(given[axis].shape + (1,) * behind))
        else:
            after = len(whole) - whole.index(axis) - 1 + (inner if whole.index(axis) < first else 0)
            grid.append(mx.arange(x.shape[axis]).reshape((-1,) + (1,) * after))
    return tuple(grid)


def index_select(x: mx.array, axis: int, positions: mx.array) -> mx.array:
    """X at positions along one axis."""
    return mx.take(x, positions, axis)


def gather(x: mx.array, axis: int, positions: mx.array, *, sparse_grad: bool = False) -> mx.array:
    """X at a position of the axis for each other position; torch lets the other axes of x be longer."""
    axis %= x.ndim
    cut = tuple(slice(None) if at == axis else slice(size) for at, size in enumerate(positions.shape))
    return mx.take_along_axis(x[cut], positions, axis)


def scatter(x: mx.array, axis: int, positions: mx.array, source: Operand) -> mx.array:
    """X with elements written along an axis; where the other axes of positions are as long as those of x."""
    values = mx.broadcast_to(as_array(source, x.dtype), positions.shape)
    if any(own != size for at, (own, size) in enumerate(zip(x.shape, positions.shape, strict=True)) if at != axis):
        raise ValueError(f"scatter takes positions for all of the other axes, of {x.shape} these are {positions.shape}")
    return mx.put_along_axis(x, positions, values, axis)


def scatter_add(x: mx.array, axis: int, positions: mx.array, source: mx.array) -> mx.array:
    """X with elements added along an axis."""
    axis %= x.ndim
    grid: list[mx.array] = [
        positions if at == axis else mx.arange(size).reshape([-1 if own == at else 1 for own in range(x.ndim)])
        for at, size in enumerate(positions.shape)
    ]
    cut = tuple(slice(size) for size in positions.shape)
    return x.at[tuple(mx.broadcast_to(part, positions.shape) for part in grid)].add(as_array(source[cut], x.dtype))


def slice_scatter(
    x: mx.array, source: mx.array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> mx.array:
    """X with a part of an axis replaced."""
    first, behind, _ = slice(start, end, step).indices(x.shape[axis])
    if step == 1:
        parts = [sliced(x, axis, 0, first), as_array(source, x.dtype), sliced(x, axis, max(first, behind))]
        return mx.concatenate(parts, axis)
    return index_put(x, [None] * (axis % x.ndim) + [mx.arange(first, behind, step)], source)


def select_scatter(x: mx.array, source: mx.array, axis: int, position: int) -> mx.array:
    """X with one position of an axis replaced."""
    start = position % x.shape[axis]
    return slice_scatter(x, mx.expand_dims(source, axis), axis, start, start + 1)


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.embedding.default": embedding,
    "aten.index.Tensor": index,
    "aten.index_put.default": index_put,
    "aten.index_select.default": index_select,
    "aten.gather.default": gather,
    "aten.take_along_dim.default": mx.take_along_axis,
    "aten.scatter.src": scatter,
    "aten.scatter.value": scatter,
    "aten.scatter_add.default": scatter_add,
    "aten.slice_scatter.default": slice_scatter,
    "aten.select_scatter.default": select_scatter,
}
