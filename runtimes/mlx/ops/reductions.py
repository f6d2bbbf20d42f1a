"""Operations that make an axis shorter or run along it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import Number, floating, is_floating
from runtimes.mlx.graph import DType
from runtimes.mlx.ops.creation import dtype_of

Axes = int | Sequence[int] | None


def axes_of(axes: Axes) -> int | tuple[int, ...] | None:
    """The axes in MLX's words: none given, or an empty list, is all."""
    if axes is None or isinstance(axes, int):
        return axes
    return tuple(axes) or None


def total(x: mx.array, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None) -> mx.array:
    """The sum; of integers and masks in int64."""
    wanted = dtype_of(dtype, x.dtype if is_floating(x.dtype) else mx.int64)
    return mx.sum(x.astype(wanted), axes_of(axes), keepdim)


def mean(x: mx.array, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None) -> mx.array:
    """The mean."""
    return mx.mean(x.astype(dtype_of(dtype, x.dtype)), axes_of(axes), keepdim)


def variance(x: mx.array, axes: Axes = None, *, correction: Number | None = None, keepdim: bool = False) -> mx.array:
    """The variance; the count is less by the correction, 1 when it is left out."""
    reduced = axes_of(axes)
    centred = x - mx.mean(x, reduced, keepdims=True)
    squares = mx.sum(mx.square(centred), reduced, keepdim)
    count = x.size // max(1, squares.size)
    return squares / (count - (1 if correction is None else correction))


def variance_unbiased(x: mx.array, axes: Axes = None, unbiased: bool = True, keepdim: bool = False) -> mx.array:
    """The variance over a count that is less by one where it is unbiased."""
    return variance(x, axes, correction=int(unbiased), keepdim=keepdim)


def product(x: mx.array, axis: int | None = None, keepdim: bool = False, *, dtype: DType | None = None) -> mx.array:
    """The product; of integers in int64."""
    wanted = dtype_of(dtype, x.dtype if is_floating(x.dtype) else mx.int64)
    return mx.prod(x.astype(wanted), axis, keepdim)


def cumsum(x: mx.array, axis: int, *, dtype: DType | None = None) -> mx.array:
    """Sums up to and with each element; of integers and masks in int64."""
    wanted = dtype_of(dtype, x.dtype if is_floating(x.dtype) else mx.int64)
    return mx.cumsum(x.astype(wanted), axis)


def argmax(x: mx.array, axis: int | None = None, keepdim: bool = False) -> mx.array:
    """The first position of the largest element, int64 as in torch."""
    return mx.argmax(x, axis, keepdim).astype(mx.int64)


def argmin(x: mx.array, axis: int | None = None, keepdim: bool = False) -> mx.array:
    """The first position of the smallest element."""
    return mx.argmin(x, axis, keepdim).astype(mx.int64)


def max_and_position(x: mx.array, axis: int, keepdim: bool = False) -> tuple[mx.array, mx.array]:
    """The largest element and where it is; the gradient goes there alone."""
    return _taken(x, mx.argmax(mx.stop_gradient(x), axis, keepdims=True), axis, keepdim)


def min_and_position(x: mx.array, axis: int, keepdim: bool = False) -> tuple[mx.array, mx.array]:
    """The smallest element and where it is; the gradient goes there alone."""
    return _taken(x, mx.argmin(mx.stop_gradient(x), axis, keepdims=True), axis, keepdim)


def _taken(x: mx.array, positions: mx.array, axis: int, keepdim: bool) -> tuple[mx.array, mx.array]:
    values = mx.take_along_axis(x, positions, axis)
    pair = (values, positions.astype(mx.int64))
    return pair if keepdim else (mx.squeeze(pair[0], axis), mx.squeeze(pair[1], axis))


def sort(x: mx.array, axis: int = -1, descending: bool = False) -> tuple[mx.array, mx.array]:
    """The elements in order, and where they were; of equals, the first comes first."""
    ordered = -x if descending else x
    positions = mx.argsort(mx.stop_gradient(ordered), axis)
    return mx.take_along_axis(x, positions, axis), positions.astype(mx.int64)


def topk(
    x: mx.array, count: int, axis: int = -1, largest: bool = True, in_order: bool = True
) -> tuple[mx.array, mx.array]:
    """The largest or smallest elements in order, and where they are."""
    values, positions = sort(x, axis, largest)
    kept = tuple(slice(count) if at == axis % x.ndim else slice(None) for at in range(x.ndim))
    return values[kept], positions[kept]


def softmax(x: mx.array, axis: int, dtype: DType | bool | None = None) -> mx.array:
    """Shares that add up to one, computed in float32."""
    wanted = dtype_of(dtype, x.dtype) if isinstance(dtype, DType) else x.dtype
    return mx.softmax(floating(x).astype(wanted), axis, precise=True)


def log_softmax(x: mx.array, axis: int, dtype: DType | bool | None = None) -> mx.array:
    """The logarithms of the shares, computed in float32."""
    wanted = dtype_of(dtype, x.dtype) if isinstance(dtype, DType) else x.dtype
    exact = x.astype(mx.float32)
    return (exact - mx.logsumexp(exact, axis, keepdims=True)).astype(wanted)


def logsumexp(x: mx.array, axes: Axes, keepdim: bool = False) -> mx.array:
    """The logarithm of the sum of exponentials."""
    return mx.logsumexp(x, axes_of(axes), keepdim)


def vector_norm(
    x: mx.array, order: Number = 2, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None
) -> mx.array:
    """The norm of a given order."""
    x = x.astype(dtype_of(dtype, x.dtype))
    if order == 2:
        return mx.sqrt(mx.sum(mx.square(x), axes_of(axes), keepdim))
    if order == 1:
        return mx.sum(mx.abs(x), axes_of(axes), keepdim)
    if order == float("inf"):
        return mx.max(mx.abs(x), axes_of(axes), keepdim)
    return mx.power(mx.sum(mx.power(mx.abs(x), order), axes_of(axes), keepdim), 1 / order)


def norm(
    x: mx.array, order: Number | None = None, axes: Axes = None, keepdim: bool = False, *, dtype: DType | None = None
) -> mx.array:
    """The norm of vectors, as DoRA takes it of the rows of a matrix."""
    if order is not None and (isinstance(axes, int) or (axes is not None and len(axes) == 1)):
        return vector_norm(x, order, axes, keepdim, dtype=dtype)
    if order is not None:
        raise ValueError("a norm of matrices with an order has no lowering, one of vectors has")
    return vector_norm(x, 2, axes, keepdim, dtype=dtype)


def _over(reduction: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def reduce(x: mx.array, axes: Axes = None, keepdim: bool = False) -> mx.array:
        return reduction(x, axes_of(axes), keepdim)

    return reduce


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.sum.default": total,
    "aten.sum.dim_IntList": total,
    "aten.mean.default": mean,
    "aten.mean.dim": mean,
    "aten.var.correction": variance,
    "aten.var.dim": variance_unbiased,
    "aten.std.correction": lambda x, axes=None, **kwargs: mx.sqrt(variance(x, axes, **kwargs)),
    "aten.prod.default": product,
    "aten.prod.dim_int": product,
    "aten.cumsum.default": cumsum,
    "aten.argmax.default": argmax,
    "aten.argmin.default": argmin,
    "aten.max.dim": max_and_position,
    "aten.min.dim": min_and_position,
    "aten.max.default": _over(mx.max),
    "aten.min.default": _over(mx.min),
    "aten.amax.default": _over(mx.max),
    "aten.amin.default": _over(mx.min),
    **{f"aten.any.{kind}": _over(mx.any) for kind in ("default", "dim", "dims")},
    **{f"aten.all.{kind}": _over(mx.all) for kind in ("default", "dim", "dims")},
    "aten.sort.default": sort,
    "aten.topk.default": topk,
    "aten.softmax.int": softmax,
    "aten._softmax.default": softmax,
    "aten.log_softmax.int": log_softmax,
    "aten._log_softmax.default": log_softmax,
    "aten.logsumexp.default": logsumexp,
    "aten.linalg_vector_norm.default": vector_norm,
    "aten.linalg_norm.default": norm,
}
