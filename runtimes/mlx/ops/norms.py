"""Normalisations. Means and variances are computed in float32, whatever the dtype."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import Number

# B = batch, C = channels


def layer_norm(
    x: mx.array,
    shape: Sequence[int],
    weight: mx.array | None = None,
    bias: mx.array | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> mx.array:
    """X with mean 0 and variance 1 over its last axes, scaled and shifted (Ba et al. 2016, arXiv:1607.06450)."""
    flat = (*x.shape[: x.ndim - len(shape)], math.prod(shape))
    scale, shift = (None if part is None else part.reshape(-1) for part in (weight, bias))
    return mx.fast.layer_norm(x.reshape(flat), scale, shift, eps).reshape(x.shape)


def rms_norm(x: mx.array, shape: Sequence[int], weight: mx.array | None = None, eps: float | None = None) -> mx.array:
    """X with a mean square of 1 over its last axes, scaled (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    flat = (*x.shape[: x.ndim - len(shape)], math.prod(shape))
    # torch's own default of eps is that of the dtype
    least = mx.finfo(x.dtype).eps if eps is None else eps
    scale = None if weight is None else weight.reshape(-1)
    return mx.fast.rms_norm(x.reshape(flat), scale, least).reshape(x.shape)


def group_norm(
    x: mx.array,
    groups: int,
    weight: mx.array | None = None,
    bias: mx.array | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> mx.array:
    """X normalised over groups of channels (Wu and He 2018, arXiv:1803.08494)."""
    flat = mx.fast.layer_norm(x.reshape(x.shape[0], groups, -1), None, None, eps).reshape(x.shape)
    return _scaled(flat, weight, bias)


def batch_norm_training(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    running_mean: mx.array,
    running_var: mx.array,
    momentum: float,
    eps: float,
) -> tuple[mx.array, mx.array, mx.array, mx.array, mx.array]:
    """X normalised over all but its channels, the mean, the inverse deviation, and the new running statistics.

    The running variance is the unbiased one, as in torch; the one that normalises is not.
    """
    axes = (0, *range(2, x.ndim))
    exact = x.astype(mx.float32)
    mean_C = mx.mean(exact, axes)
    var_C = mx.mean(mx.square(exact - _along_channels(mean_C, x.ndim)), axes)
    inverse_C = mx.rsqrt(var_C + eps)
    out = (exact - _along_channels(mean_C, x.ndim)) * _along_channels(inverse_C, x.ndim)
    count = x.size // x.shape[1]
    new_mean = _moved(running_mean, mean_C, momentum)
    new_var = _moved(running_var, var_C * (count / (count - 1)), momentum)
    return _scaled(out, weight, bias).astype(x.dtype), mean_C, inverse_C, new_mean, new_var


def batch_norm_inference(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    running_mean: mx.array,
    running_var: mx.array,
    momentum: float,
    eps: float,
) -> tuple[mx.array, mx.array, mx.array]:
    """X normalised by the running statistics; two empty arrays, where training has its statistics."""
    centred = x.astype(mx.float32) - _along_channels(running_mean, x.ndim)
    out = centred * _along_channels(mx.rsqrt(running_var.astype(mx.float32) + eps), x.ndim)
    return _scaled(out, weight, bias).astype(x.dtype), mx.zeros((0,)), mx.zeros((0,))


def batch_norm_functional(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    running_mean: mx.array,
    running_var: mx.array,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[mx.array, ...]:
    """Batch norm in either mode; in evaluation the running statistics stay."""
    if training:
        return batch_norm_training(x, weight, bias, running_mean, running_var, momentum, eps)
    found = batch_norm_inference(x, weight, bias, running_mean, running_var, momentum, eps)
    return (*found, running_mean, running_var)


def batch_norm(  # noqa: PLR0913, PLR0917  (torch's own arguments)
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    running_mean: mx.array | None,
    running_var: mx.array | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> mx.array:
    """Batch norm whose new running statistics nobody reads."""
    zeros, ones = mx.zeros((x.shape[1],)), mx.ones((x.shape[1],))
    mean, var = (zeros if running_mean is None else running_mean, ones if running_var is None else running_var)
    return batch_norm_functional(x, weight, bias, mean, var, training, momentum, eps)[0]


def _moved(running: mx.array, now: mx.array, momentum: Number) -> mx.array:
    return mx.stop_gradient((1 - momentum) * running + momentum * now).astype(running.dtype)


def _along_channels(values_C: mx.array, ndim: int) -> mx.array:
    return values_C.reshape((1, -1) + (1,) * (ndim - 2))


def _scaled(x: mx.array, weight_C: mx.array | None, bias_C: mx.array | None) -> mx.array:
    if weight_C is not None:
        x = x * _along_channels(weight_C, x.ndim)
    return x if bias_C is None else x + _along_channels(bias_C, x.ndim)


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": rms_norm,
    "aten.group_norm.default": group_norm,
    "aten.batch_norm.default": batch_norm,
    "aten._native_batch_norm_legit_functional.default": batch_norm_functional,
    "aten._native_batch_norm_legit_no_training.default": batch_norm_inference,
}
