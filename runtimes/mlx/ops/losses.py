"""Losses, computed in float32 and given back in the dtype of their input."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import Number, is_floating

# B = batch, C = classes; further axes may stand behind C
NONE, MEAN, SUM = 0, 1, 2  # torch's numbers of its reductions


def reduced(losses: mx.array, reduction: int, denominator: mx.array | None = None) -> mx.array:
    """The losses, their sum, or their sum over a denominator: their count when it is left out."""
    if reduction == NONE:
        return losses
    total = mx.sum(losses)
    if reduction == SUM:
        return total
    return total / (losses.size if denominator is None else denominator)


def cross_entropy(
    logits: mx.array,
    target: mx.array,
    weight: mx.array | None = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> mx.array:
    """Negative log-likelihood of the targets in nats; of classes [B, ...], or of shares [B, C, ...]."""
    axis = 1 if logits.ndim > 1 else 0
    exact = logits.astype(mx.float32)
    if is_floating(target.dtype):
        losses = _of_shares(exact, target.astype(mx.float32), weight, axis, label_smoothing)
        count = mx.array(max(1, losses.size), mx.float32)
        return reduced(losses, reduction, count).astype(logits.dtype)
    counts = target != ignore_index
    safe = mx.where(counts, target, 0)
    norm = mx.logsumexp(exact, axis)
    picked = norm - mx.squeeze(mx.take_along_axis(exact, mx.expand_dims(safe, axis), axis), axis)
    shares = counts.astype(mx.float32) if weight is None else mx.where(counts, weight.astype(mx.float32)[safe], 0.0)
    losses = picked * shares
    if label_smoothing:
        smooth = mx.where(counts, _smooth(exact, mx.expand_dims(norm, axis), weight, axis), 0.0)
        losses = (1 - label_smoothing) * losses + label_smoothing / logits.shape[axis] * smooth
    return reduced(losses, reduction, mx.sum(shares)).astype(logits.dtype)


def _smooth(logits: mx.array, norm: mx.array, weight: mx.array | None, axis: int) -> mx.array:
    """The sum of the losses of all classes, each times its weight."""
    each = norm - logits
    return mx.sum(each if weight is None else each * _classes(weight, logits.ndim, axis), axis)


def _of_shares(
    logits: mx.array, shares: mx.array, weight: mx.array | None, axis: int, label_smoothing: float
) -> mx.array:
    if label_smoothing:
        shares = shares * (1 - label_smoothing) + label_smoothing / logits.shape[axis]
    if weight is not None:
        shares = shares * _classes(weight, logits.ndim, axis)
    return mx.sum((mx.logsumexp(logits, axis, keepdims=True) - logits) * shares, axis)


def _classes(weight_C: mx.array, ndim: int, axis: int) -> mx.array:
    return weight_C.astype(mx.float32).reshape([-1 if at == axis else 1 for at in range(ndim)])


def nll_loss(
    log_shares: mx.array,
    target: mx.array,
    weight: mx.array | None = None,
    reduction: int = MEAN,
    ignore_index: int = -100,
) -> mx.array:
    """Minus the log-likelihood of the targets."""
    axis = 1 if log_shares.ndim > 1 else 0
    counts = target != ignore_index
    safe = mx.where(counts, target, 0)
    picked = -mx.squeeze(mx.take_along_axis(log_shares, mx.expand_dims(safe, axis), axis), axis)
    shares = counts.astype(log_shares.dtype) if weight is None else mx.where(counts, weight[safe], 0.0)
    return reduced(picked * shares, reduction, mx.sum(shares))


def binary_cross_entropy_with_logits(
    logits: mx.array,
    target: mx.array,
    weight: mx.array | None = None,
    pos_weight: mx.array | None = None,
    reduction: int = MEAN,
) -> mx.array:
    """Negative log-likelihood of yes and no, in nats."""
    exact, wanted = logits.astype(mx.float32), target.astype(mx.float32)
    softplus = mx.logaddexp(-exact, mx.zeros_like(exact))  # log(1 + exp(-x))
    positive = 1.0 if pos_weight is None else 1 + (pos_weight.astype(mx.float32) - 1) * wanted
    losses = (1 - wanted) * exact + positive * softplus
    return reduced(losses if weight is None else losses * weight, reduction).astype(logits.dtype)


def mse_loss(x: mx.array, target: mx.array, reduction: int = MEAN) -> mx.array:
    """Squared differences."""
    return reduced(mx.square(x - target), reduction)


def l1_loss(x: mx.array, target: mx.array, reduction: int = MEAN) -> mx.array:
    """Absolute differences."""
    return reduced(mx.abs(x - target), reduction)


def smooth_l1_loss(x: mx.array, target: mx.array, reduction: int = MEAN, beta: Number = 1.0) -> mx.array:
    """Squared differences up to beta, absolute beyond."""
    difference = mx.abs(x - target)
    near = 0.5 * mx.square(difference) / beta if beta else difference
    return reduced(mx.where(difference < beta, near, difference - 0.5 * beta), reduction)


def huber_loss(x: mx.array, target: mx.array, reduction: int = MEAN, delta: Number = 1.0) -> mx.array:
    """Half the squared differences up to delta, a line beyond."""
    difference = mx.abs(x - target)
    return reduced(
        mx.where(difference < delta, 0.5 * mx.square(difference), delta * (difference - 0.5 * delta)), reduction
    )


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.cross_entropy_loss.default": cross_entropy,
    "aten.nll_loss.default": nll_loss,
    "aten.nll_loss_nd.default": nll_loss,
    "aten.binary_cross_entropy_with_logits.default": binary_cross_entropy_with_logits,
    "aten.mse_loss.default": mse_loss,
    "aten.l1_loss.default": l1_loss,
    "aten.smooth_l1_loss.default": smooth_l1_loss,
    "aten.huber_loss.default": huber_loss,
}
