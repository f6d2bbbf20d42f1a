"""Operations that draw. Their first argument is a key of MLX, another one for each node and step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from runtimes.mlx.graph import DType
from runtimes.mlx.ops.creation import dtype_of


def kept(key: mx.array, shape: Sequence[int], share: float) -> mx.array:
    """A mask that holds for 1 - share of the elements."""
    return mx.random.bernoulli(1 - share, tuple(shape), key)


def dropout(key: mx.array, x: mx.array, share: float = 0.5, training: bool = True) -> mx.array:
    """X with a share of its elements zeroed, the others scaled by 1 / (1 - share)."""
    if not training or share == 0:
        return x
    return native_dropout(key, x, share)[0]


def native_dropout(key: mx.array, x: mx.array, share: float, training: bool | None = True) -> tuple[mx.array, mx.array]:
    """X after dropout, and the mask of what was kept."""
    if training is False or share == 0:
        return x, mx.ones(x.shape, mx.bool_)
    mask = kept(key, x.shape, share)
    scale = 0.0 if share == 1 else 1 / (1 - share)
    return mx.where(mask, x * scale, mx.zeros_like(x)), mask


def rand(key: mx.array, shape: Sequence[int], *, dtype: DType | None = None) -> mx.array:
    """Numbers between 0 and 1."""
    return mx.random.uniform(shape=tuple(shape), key=key).astype(dtype_of(dtype, mx.float32))


def rand_like(key: mx.array, x: mx.array, *, dtype: DType | None = None) -> mx.array:
    """Numbers between 0 and 1 in the shape of x."""
    return mx.random.uniform(shape=x.shape, key=key).astype(dtype_of(dtype, x.dtype))


def randn(key: mx.array, shape: Sequence[int], *, dtype: DType | None = None) -> mx.array:
    """Numbers of the standard normal distribution."""
    return mx.random.normal(tuple(shape), key=key).astype(dtype_of(dtype, mx.float32))


def randn_like(key: mx.array, x: mx.array, *, dtype: DType | None = None) -> mx.array:
    """Numbers of the standard normal distribution in the shape of x."""
    return mx.random.normal(x.shape, key=key).astype(dtype_of(dtype, x.dtype))


def bernoulli(key: mx.array, x: mx.array, share: float) -> mx.array:
    """One with a probability, else zero, in the shape and dtype of x."""
    return mx.random.bernoulli(share, x.shape, key).astype(x.dtype)


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.dropout.default": dropout,
    "aten.native_dropout.default": native_dropout,
    "aten.rand.default": rand,
    "aten.rand_like.default": rand_like,
    "aten.randn.default": randn,
    "aten.randn_like.default": randn_like,
    "aten.bernoulli.p": bernoulli,
}
