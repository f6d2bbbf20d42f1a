"""The optimizers with torch's definitions, as functions from values to values.

mlx.optimizers differ: Adam there corrects no bias unless told to, and adds its decay to vectors too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import assert_never

import mlx.core as mx

from compiler.recipe import SGD, Adam, AdamW, Optimizer
from runtimes.groups import Group

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
    groups: Mapping[str, Group],
    step: mx.array,
    learning_rate: mx.array,
) -> tuple[dict[str, mx.array], Moments]:
    """The parameters and moments after a step. `step` counts all steps from 1, also those before a parameter's own."""
    new_parameters: dict[str, mx.array] = {}
    new_moments: Moments = {}
    scales = _scales(optimizer, {groups[name] for name in parameters}, step, learning_rate)
    for name, value in parameters.items():
        decay, own, shared = groups[name].weight_decay, moments[name], scales[groups[name]]
        match optimizer:
            case AdamW():
                shrunk = value * shared.shrink if decay else value
                found = _adam(optimizer, shrunk, gradients[name], own, shared)
            case Adam():
                found = _adam(optimizer, value, _decayed(gradients[name], value, decay), own, shared)
            case SGD():
                found = _sgd(optimizer, value, _decayed(gradients[name], value, decay), own, shared.rate)
            case _:
                assert_never(optimizer)
        new_parameters[name], new_moments[name] = found
    return new_parameters, new_moments


def _decayed(gradient: mx.array, value: mx.array, decay: float) -> mx.array:
    return gradient + decay * value if decay else gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scales:
    """Numbers that the parameters of a group share. One made for a parameter alone, mx.compile makes for each element.

    So groups share what they have in common as well.
    """

    rate: mx.array  # the group's learning rate, with Adam over the correction of the mean
    root: mx.array  # the root of the correction of the mean square
    shrink: mx.array  # what AdamW's decay leaves


def _scales(
    optimizer: Optimizer, groups: Collection[Group], step: mx.array, learning_rate: mx.array
) -> dict[Group, _Scales]:
    """What the parameters of each group share."""
    one = mx.array(1.0)
    rates = {rate: learning_rate if rate == 1 else learning_rate * rate for rate in {group.rate for group in groups}}
    match optimizer:
        case AdamW(beta1=beta1, beta2=beta2) | Adam(beta1=beta1, beta2=beta2):
            counts = {opens: step - opens if opens else step for opens in {group.opens for group in groups}}
            means = {opens: _bias_correction(beta1, count) for opens, count in counts.items()}
            roots = {opens: mx.sqrt(_bias_correction(beta2, count)) for opens, count in counts.items()}
            both = {(group.rate, group.opens) for group in groups}
            corrected = {(rate, opens): rates[rate] / means[opens] for rate, opens in both}
            return {
                group: _Scales(
                    rate=corrected[group.rate, group.opens],
                    root=roots[group.opens],
                    shrink=1 - rates[group.rate] * group.weight_decay,
                )
                for group in groups
            }
        case SGD():
            return {group: _Scales(rate=rates[group.rate], root=one, shrink=one) for group in groups}
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


def moved_average(average: Arrays, parameters: Arrays, decay: float) -> dict[str, mx.array]:
    """The running average of parameters after a step: `decay` of it stays."""
    return {name: average[name] + (1 - decay) * (value - average[name]) for name, value in parameters.items()}


def global_norm(gradients: Arrays) -> mx.array:
    """The Euclidean norm of all gradients as one vector, in float32."""
    return mx.sqrt(sum((mx.sum(mx.square(value.astype(mx.float32))) for value in gradients.values()), mx.array(0.0)))


def clip(gradients: Arrays, norm: mx.array, max_norm: float) -> dict[str, mx.array]:
    """The gradients, scaled down where their norm is above the limit, as torch's clip_grad_norm_ does."""
    share = mx.minimum(max_norm / (norm + 1e-6), 1.0)
    return {name: value * share.astype(value.dtype) for name, value in gradients.items()}
