"""New arrays, and arrays in another dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import DTYPES, Number, Operand, as_array
from runtimes.mlx.graph import DType


def dtype_of(wanted: DType | None, otherwise: mx.Dtype) -> mx.Dtype:
    """The dtype that an argument names."""
    return otherwise if wanted is None else DTYPES[wanted.name]


def _natural(*numbers: Number) -> mx.Dtype:
    """The dtype that torch gives to numbers: bool, int64 or float32."""
    if all(isinstance(number, bool) for number in numbers):
        return mx.bool_
    return mx.int64 if all(isinstance(number, int) for number in numbers) else mx.float32


def full(shape: Sequence[int], value: Number, *, dtype: DType | None = None) -> mx.array:
    """An array of one value."""
    wanted = dtype_of(dtype, _natural(value))
    return mx.broadcast_to(mx.array(value, wanted), tuple(shape))


def filled(value: Number) -> Callable[..., mx.array]:
    """A function of a shape that gives arrays of the value."""

    def fill(shape: Sequence[int], *, dtype: DType | None = None) -> mx.array:
        return full(shape, value, dtype=dtype or DType("float32"))

    return fill


def filled_new(value: Number) -> Callable[..., mx.array]:
    """A function of an array and a shape that gives arrays of the value in the array's dtype."""

    def fill(x: mx.array, shape: Sequence[int], *, dtype: DType | None = None) -> mx.array:
        return new_full(x, shape, value, dtype=dtype)

    return fill


def filled_like(value: Number) -> Callable[..., mx.array]:
    """A function of an array that gives arrays of the value in the array's shape and dtype."""

    def fill(x: mx.array, *, dtype: DType | None = None) -> mx.array:
        return full_like(x, value, dtype=dtype)

    return fill


def full_like(x: mx.array, value: Number, *, dtype: DType | None = None) -> mx.array:
    """An array of one value in another's shape."""
    return new_full(x, x.shape, value, dtype=dtype)


def new_full(x: mx.array, shape: Sequence[int], value: Number, *, dtype: DType | None = None) -> mx.array:
    """An array of one value in another's dtype."""
    return mx.broadcast_to(mx.array(value, dtype_of(dtype, x.dtype)), tuple(shape))


def arange(start: Number, end: Number | None = None, step: Number = 1, *, dtype: DType | None = None) -> mx.array:
    """Numbers from start (0 when it is left out) to end, without the end."""
    if end is None:
        start, end = 0, start
    wanted = dtype_of(dtype, _natural(start, end, step))
    count = max(0, math.ceil((end - start) / step))
    # Counting in integers keeps every number exact, however long the range.
    return (mx.arange(count).astype(wanted) * as_array(step, wanted) + as_array(start, wanted)).astype(wanted)


def scalar_tensor(value: Number, *, dtype: DType | None = None) -> mx.array:
    """An array without axes."""
    return mx.array(value, dtype_of(dtype, mx.float32))


def eye(rows: int, columns: int | None = None, *, dtype: DType | None = None) -> mx.array:
    """The unit matrix."""
    return mx.eye(rows, columns, dtype=dtype_of(dtype, mx.float32))


def to_copy(x: mx.array, *, dtype: DType | None = None) -> mx.array:
    """X in another dtype; a fraction is cut towards zero where integers are asked for."""
    return as_array(x, dtype_of(dtype, x.dtype))


def to_dtype(x: mx.array, dtype: DType, *_: object) -> mx.array:
    """X in another dtype."""
    return as_array(x, DTYPES[dtype.name])


def to_device(x: mx.array, _: object, dtype: DType | None = None, *__: object) -> mx.array:
    """X in another dtype; there is one device."""
    return as_array(x, dtype_of(dtype, x.dtype))


def copy(x: mx.array, source: mx.array, *_: object) -> mx.array:
    """The source in the shape and dtype of x."""
    return mx.broadcast_to(as_array(source, x.dtype), x.shape)


def fill(x: mx.array, value: Operand) -> mx.array:
    """One value in the shape and dtype of x."""
    return mx.broadcast_to(as_array(value, x.dtype), x.shape)


def one_hot(x: mx.array, num_classes: int) -> mx.array:
    """One where the class is, else zero."""
    return (x[..., None] == mx.arange(num_classes)).astype(mx.int64)


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.full.default": full,
    "aten.zeros.default": filled(0),
    "aten.ones.default": filled(1),
    "aten.empty.memory_format": filled(0),
    "aten.full_like.default": full_like,
    "aten.zeros_like.default": filled_like(0),
    "aten.ones_like.default": filled_like(1),
    "aten.empty_like.default": filled_like(0),
    "aten.new_full.default": new_full,
    "aten.new_zeros.default": filled_new(0),
    "aten.new_ones.default": filled_new(1),
    "aten.new_empty.default": filled_new(0),
    "aten.arange.default": arange,
    "aten.arange.start": arange,
    "aten.arange.start_step": arange,
    "aten.scalar_tensor.default": scalar_tensor,
    "aten.eye.default": eye,
    "aten.eye.m": eye,
    "aten._to_copy.default": to_copy,
    "aten.to.dtype": to_dtype,
    "aten.to.device": to_device,
    "aten.type_as.default": lambda x, other: as_array(x, other.dtype),
    "aten.copy.default": copy,
    "aten.fill.Scalar": fill,
    "aten.fill.Tensor": fill,
    "aten.one_hot.default": one_hot,
}
