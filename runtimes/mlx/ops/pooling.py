"""Pooling over windows of images, channels first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

# B = batch, C = channels, H = height, W = width, K = elements of a window


def max_pool2d(
    x_BCHW: mx.array,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> mx.array:
    """The largest of each window; the gradient goes to the first of equals, as in torch."""
    windows = _Windows(x_BCHW, kernel, stride, padding, dilation, ceil_mode)
    seen_KBCHW = windows.of(x_BCHW, mx.finfo(x_BCHW.dtype).min)
    first = mx.stop_gradient(mx.argmax(seen_KBCHW, axis=0, keepdims=True))
    return mx.take_along_axis(seen_KBCHW, first, 0)[0]


def max_pool2d_with_indices(x_BCHW: mx.array, *args: Any) -> tuple[mx.array, None]:
    """The largest of each window; nobody reads where they are."""
    return max_pool2d(x_BCHW, *args), None


def avg_pool2d(
    x_BCHW: mx.array,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> mx.array:
    """The mean of each window, padding counted or not; what a window has beyond the padding never counts."""
    windows = _Windows(x_BCHW, kernel, stride, padding, (1,), ceil_mode)
    totals = mx.sum(windows.of(x_BCHW, 0.0), axis=0)
    if divisor_override is not None:
        return totals / divisor_override
    ones = mx.ones((1, 1, *x_BCHW.shape[2:]), x_BCHW.dtype)
    if count_include_pad:
        (top, left) = windows.padding
        ones = mx.pad(ones, [(0, 0), (0, 0), (top, top), (left, left)], constant_values=1)
        unpadded = _Windows(ones, kernel, stride, (0,), (1,), ceil_mode)
        return totals / mx.sum(unpadded.of(ones, 0.0), axis=0)
    return totals / mx.sum(windows.of(ones, 0.0), axis=0)


class _Windows:
    """Where the windows of a pooling lie."""

    def __init__(
        self,
        x_BCHW: mx.array,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> None:
        self.kernel, self.padding, self.dilation = _two(kernel), _two(padding), _two(dilation)
        self.stride = _two(stride) if stride else self.kernel
        self.count = tuple(
            _count(size, k, s, p, d, ceil_mode)
            for size, k, s, p, d in zip(
                x_BCHW.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def of(self, x_BCHW: mx.array, outside: float) -> mx.array:
        """[K, B, C, H, W]: the elements of every window, one kernel place after another."""
        spans = [
            (count - 1) * stride + (kernel - 1) * dilation + 1
            for count, stride, kernel, dilation in zip(self.count, self.stride, self.kernel, self.dilation, strict=True)
        ]
        sizes = zip(x_BCHW.shape[2:], spans, self.padding, strict=True)
        pads = [(pad, max(0, span - size - pad)) for size, span, pad in sizes]
        padded = mx.pad(x_BCHW, [(0, 0), (0, 0), *pads], constant_values=mx.array(outside, x_BCHW.dtype))
        (down, right), (rows, columns) = self.stride, self.count
        return mx.stack(
            [
                padded[:, :, top : top + (rows - 1) * down + 1 : down, left : left + (columns - 1) * right + 1 : right]
                for top, left in itertools.product(
                    *(range(0, k * d, d) for k, d in zip(self.kernel, self.dilation, strict=True))
                )
            ]
        )


def _count(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows lie along an axis; with ceil_mode none begins in the padding behind."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size + padding else count


def _two(values: Sequence[int] | int) -> tuple[int, int]:
    if isinstance(values, int):
        return values, values
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def adaptive_avg_pool2d(x_BCHW: mx.array, size: Sequence[int | None]) -> mx.array:
    """Means over bins that cover the image evenly, so that the result has a given size."""
    height, width = (own if wanted is None else wanted for own, wanted in zip(x_BCHW.shape[2:], size, strict=True))
    if (height, width) == (1, 1):
        return mx.mean(x_BCHW, axis=(2, 3), keepdims=True)
    rows, columns = _bins(x_BCHW.shape[2], height), _bins(x_BCHW.shape[3], width)
    return rows.astype(x_BCHW.dtype) @ x_BCHW @ columns.astype(x_BCHW.dtype).T


def adaptive_avg_pool1d(x_BCT: mx.array, size: Sequence[int]) -> mx.array:
    """Means over bins that cover the last axis evenly."""
    return x_BCT @ _bins(x_BCT.shape[-1], size[0]).astype(x_BCT.dtype).T


def _bins(size: int, bins: int) -> mx.array:
    """[bins, size]: the share of each element in each bin."""
    places = np.arange(size)
    first = np.arange(bins) * size // bins
    behind = -(-(np.arange(bins) + 1) * size // bins)
    inside = (places >= first[:, None]) & (places < behind[:, None])
    return mx.array((inside / inside.sum(1, keepdims=True)).astype(np.float32))


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.max_pool2d.default": max_pool2d,
    "aten.max_pool2d_with_indices.default": max_pool2d_with_indices,
    "aten.avg_pool2d.default": avg_pool2d,
    "aten.adaptive_avg_pool1d.default": adaptive_avg_pool1d,
    "aten.adaptive_avg_pool2d.default": adaptive_avg_pool2d,
    "aten._adaptive_avg_pool2d.default": adaptive_avg_pool2d,
}
