"""Operations that move elements without computing with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import Number, as_array, promoted_pair


def view(x: mx.array, shape: Sequence[int]) -> mx.array:
    """X in another shape; -1 is whatever is left."""
    return mx.reshape(x, tuple(shape))


def expand(x: mx.array, shape: Sequence[int], *, implicit: bool = False) -> mx.array:
    """X repeated along axes of length 1; -1 keeps an axis."""
    padded = (1,) * (len(shape) - x.ndim) + tuple(x.shape)
    return mx.broadcast_to(x, tuple(own if size == -1 else size for size, own in zip(shape, padded, strict=True)))


def squeeze(x: mx.array, axes: int | Sequence[int] | None = None) -> mx.array:
    """X without axes of length 1; axes of another length stay."""
    wanted = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    return mx.squeeze(x, tuple(axis % x.ndim for axis in wanted if x.shape[axis] == 1))


def flatten(x: mx.array, start: int = 0, end: int = -1) -> mx.array:
    """X with neighbouring axes made one."""
    return mx.flatten(x, start, end)


def unflatten(x: mx.array, axis: int, sizes: Sequence[int]) -> mx.array:
    """X with one axis made several."""
    return mx.unflatten(x, axis, tuple(sizes))


def transposed(x: mx.array) -> mx.array:
    """X with its two axes swapped; a vector as it is."""
    return mx.transpose(x)


def cat(parts: Sequence[mx.array], axis: int = 0) -> mx.array:
    """The parts one behind the other, in their common dtype; torch skips the empty vectors among them."""
    kept = [part for part in parts if part.shape != (0,)] or list(parts)
    dtype = kept[0].dtype
    for part in kept[1:]:
        dtype = promoted_pair(dtype, part.dtype)
    return mx.concatenate([as_array(part, dtype) for part in kept], axis)


def stack(parts: Sequence[mx.array], axis: int = 0) -> mx.array:
    """The parts along a new axis."""
    return mx.stack(list(parts), axis)


def split(x: mx.array, size: int, axis: int = 0) -> list[mx.array]:
    """Pieces of a size; the last may be shorter."""
    return list(mx.split(x, list(range(size, x.shape[axis], size)), axis))


def split_with_sizes(x: mx.array, sizes: Sequence[int], axis: int = 0) -> list[mx.array]:
    """Pieces of given sizes."""
    ends = [sum(sizes[: count + 1]) for count in range(len(sizes) - 1)]
    return list(mx.split(x, ends, axis))


def chunk(x: mx.array, count: int, axis: int = 0) -> list[mx.array]:
    """At most so many pieces of one size; the last may be shorter."""
    return split(x, -(-x.shape[axis] // count), axis)


def unbind(x: mx.array, axis: int = 0) -> list[mx.array]:
    """The slices along an axis, without it."""
    return [mx.squeeze(piece, axis) for piece in mx.split(x, x.shape[axis], axis)]


def sliced(x: mx.array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> mx.array:
    """A part of an axis, cut off at its ends as in Python."""
    first, behind, _ = slice(start, end, step).indices(x.shape[axis])  # torch says 2**63 - 1 for the end
    index = [slice(None)] * x.ndim
    index[axis] = slice(first, behind, step)
    return x[tuple(index)]


def select(x: mx.array, axis: int, position: int) -> mx.array:
    """X at one position of an axis, without the axis."""
    index: list[int | slice] = [slice(None)] * x.ndim
    index[axis] = position
    return x[tuple(index)]


def narrow(x: mx.array, axis: int, start: int, length: int) -> mx.array:
    """So many elements of an axis."""
    return sliced(x, axis, start, start + length)


def repeat(x: mx.array, repeats: Sequence[int]) -> mx.array:
    """X laid out so many times along each axis."""
    return mx.tile(x, tuple(repeats))


def repeat_interleave(x: mx.array, repeats: int, axis: int | None = None) -> mx.array:
    """Each element so many times in a row."""
    return mx.repeat(x, repeats, axis)


def pad(x: mx.array, widths: Sequence[int], mode: str = "constant", value: Number | None = None) -> mx.array:
    """X grown at both ends of its last axes, the last one first; a negative width takes away."""
    if mode != "constant":
        raise ValueError(f"padding is constant here, the graph asks for {mode}")
    pairs = [(widths[2 * axis], widths[2 * axis + 1]) for axis in range(len(widths) // 2)][::-1]
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    cut = tuple(slice(max(0, -low), size - max(0, -high)) for (low, high), size in zip(pairs, x.shape, strict=True))
    grown = [(max(0, low), max(0, high)) for low, high in pairs]
    return mx.pad(x[cut], grown, constant_values=as_array(value or 0, x.dtype))


def constant_pad(x: mx.array, widths: Sequence[int], value: Number = 0) -> mx.array:
    """X padded with a value."""
    return pad(x, widths, "constant", value)


def flip(x: mx.array, axes: Sequence[int]) -> mx.array:
    """X backwards along axes."""
    index = [slice(None)] * x.ndim
    for axis in axes:
        index[axis] = slice(None, None, -1)
    return x[tuple(index)]


def roll(x: mx.array, shifts: Sequence[int], axes: Sequence[int] = ()) -> mx.array:
    """X moved around along axes."""
    for shift, axis in zip(shifts, axes, strict=True) if axes else ():
        x = mx.roll(x, shift, axis)
    return x if axes else mx.roll(x, shifts[0])


def _same(x: mx.array) -> mx.array:
    return x


TABLE: Mapping[str, Callable[..., Any]] = {
    **{f"aten.{name}.default": view for name in ("view", "_unsafe_view", "reshape")},
    **{f"aten.{name}.default": _same for name in ("alias", "contiguous", "lift", "lift_fresh", "lift_fresh_copy")},
    "aten.clone.default": _same,
    "aten.detach.default": mx.stop_gradient,
    "aten.expand.default": expand,
    "aten.expand_as.default": lambda x, other: mx.broadcast_to(x, other.shape),
    "aten.broadcast_tensors.default": lambda tensors: mx.broadcast_arrays(*tensors),
    "aten.unsqueeze.default": mx.expand_dims,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.flatten.using_ints": flatten,
    "aten.unflatten.int": unflatten,
    "aten.permute.default": lambda x, axes: mx.transpose(x, tuple(axes)),
    "aten.transpose.int": mx.swapaxes,
    "aten.t.default": transposed,
    "aten.numpy_T.default": transposed,
    "aten.movedim.int": mx.moveaxis,
    "aten.cat.default": cat,
    "aten.stack.default": stack,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split_with_sizes,
    "aten.chunk.default": chunk,
    "aten.unbind.int": unbind,
    "aten.slice.Tensor": sliced,
    "aten.select.int": select,
    "aten.narrow.default": narrow,
    "aten.repeat.default": repeat,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": constant_pad,
    "aten.flip.default": flip,
    "aten.roll.default": roll,
    "aten.tril.default": mx.tril,
    "aten.triu.default": mx.triu,
}
