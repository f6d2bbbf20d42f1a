"""The optimizers with torch's definitions, as functions from values to values.

mlx.optimizers differ: Adam there corrects no bias unless told to, and adds its decay to vectors too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import mlx.core as mx

from compiler.recipe import SGD, Adam, AdamW, Optimizer

Arrays = Mapping[str, mx.array]
Moments = dict[str, dict[str, mx.array]]  # parameter -> moment by torch's name -> value


def zero_moments(optimizer: Optimizer, parameters: Arrays) -> Moments:
    """What the optimizer remembers before its first step, under the names that torch gives it."""
    match optimizer:
        case AdamW() | Adam():
            names: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
        case SGD(momentum=momentum):
            names = ("momentum_buffer",) if momentum else ()
        case _:
            assert_never(optimizer)
    return {name: {moment: mx.zeros_like(value) for moment in names} for name, value in parameters.items()}


def update(
    optimizer: Optimizer,
    parameters: Arrays,
    gradients: Arrays,
    moments: Moments,
    *,
    step: mx.array,
    learning_rate: mx.array,
    weight_decay: float,
) -> tuple[dict[str, mx.array], Moments]:
    """The parameters and moments after a step. `step` counts from 1; matrices decay, vectors do not."""
    new_parameters: dict[str, mx.array] = {}
    new_moments: Moments = {}
    scales = _scales(optimizer, step, learning_rate, weight_decay)
    for name, value in parameters.items():
        decay = weight_decay if value.ndim > 1 else 0.0
        own = moments[name]
        match optimizer:
            case AdamW():
                shrunk = value * scales.shrink if decay else value
                found = _adam(optimizer, shrunk, gradients[name], own, scales)
            case Adam():
                found = _adam(optimizer, value, _decayed(gradients[name], value, decay), own, scales)
            case SGD():
                found = _sgd(optimizer, value, _decayed(gradients[name], value, decay), own, learning_rate)
            case _:
                assert_never(optimizer)
        new_parameters[name], new_moments[name] = found
    return new_parameters, new_moments


def _decayed(gradient: mx.array, value: mx.array, decay: float) -> mx.array:
    return gradient + decay * value if decay else gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scales:
    """Numbers that all parameters share. A number made for one alone, mx.compile makes anew for each element of it."""

    rate: mx.array  # the learning rate over the correction of the mean
    root: mx.array  # the root of the correction of the mean square
    shrink: mx.array  # what AdamW's decay leaves


def _scales(optimizer: Optimizer, step: mx.array, learning_rate: mx.array, weight_decay: float) -> _Scales:
    match optimizer:
        case AdamW(beta1=beta1, beta2=beta2) | Adam(beta1=beta1, beta2=beta2):
            rate = learning_rate / _bias_correction(beta1, step)
            root = mx.sqrt(_bias_correction(beta2, step))
            return _Scales(rate=rate, root=root, shrink=1 - learning_rate * weight_decay)
        case SGD():
            return _Scales(rate=learning_rate, root=mx.array(1.0), shrink=mx.array(1.0))
        case _:
            assert_never(optimizer)


def _adam(
    optimizer: Adam | AdamW, value: mx.array, gradient: mx.array, moments: Mapping[str, mx.array], scales: _Scales
) -> tuple[mx.array, dict[str, mx.array]]:
    """A step of Adam (Kingma and Ba 2015, arXiv:1412.6980); epsilon is added outside the root, as in torch."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    mean = beta1 * moments["exp_avg"] + (1 - beta1) * gradient
    square = beta2 * moments["exp_avg_sq"] + (1 - beta2) * mx.square(gradient)
    moved = value - scales.rate * (mean / (mx.sqrt(square) / scales.root + optimizer.epsilon))
    return moved, {"exp_avg": mean, "exp_avg_sq": square}


def _bias_correction(beta: float, step: mx.array) -> mx.array:
    """1 - beta ** step; as it is written, float32 would lose four of its seven digits at the first steps."""
    return -mx.expm1(step.astype(mx.float32) * math.log(beta)) if beta else mx.array(1.0)


def _sgd(
    optimizer: SGD, value: mx.array, gradient: mx.array, moments: Mapping[str, mx.array], learning_rate: mx.array
) -> tuple[mx.array, dict[str, mx.array]]:
    """A step of gradient descent."""
    if not optimizer.momentum:
        return value - learning_rate * gradient, {}
    direction = optimizer.momentum * moments["momentum_buffer"] + gradient
    return value - learning_rate * direction, {"momentum_buffer": direction}


def global_norm(gradients: Arrays) -> mx.array:
    """The Euclidean norm of all gradients as one vector, in float32."""
    return mx.sqrt(sum((mx.sum(mx.square(value.astype(mx.float32))) for value in gradients.values()), mx.array(0.0)))


def clip(gradients: Arrays, norm: mx.array, max_norm: float) -> dict[str, mx.array]:
    """The gradients, scaled down where their norm is above the limit, as torch's clip_grad_norm_ does."""
    share = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: value * share.astype(value.dtype) for name, value in gradients.items()}
