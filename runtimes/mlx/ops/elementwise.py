"""Operations on each element, with torch's promotion."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from runtimes.mlx.dtypes import Number, Operand, as_array, floating, is_floating, promoted, result_dtype

Unary = Callable[[mx.array], mx.array]
Binary = Callable[[mx.array, mx.array], mx.array]


def add(x: Operand, y: Operand, *, alpha: Number = 1) -> mx.array:
    """The sum, y scaled by alpha; of masks, their union."""
    left, right = promoted(x, y)
    if left.dtype == mx.bool_:
        return mx.logical_or(left, right)
    return left + (right if alpha == 1 else right * as_array(alpha, right.dtype))


def subtract(x: Operand, y: Operand, alpha: Number = 1) -> mx.array:
    """The difference, y scaled by alpha."""
    left, right = promoted(x, y)
    return left - (right if alpha == 1 else right * as_array(alpha, right.dtype))


def subtract_from(x: Operand, y: Operand, alpha: Number = 1) -> mx.array:
    """The difference the other way round: y less x scaled by alpha."""
    return subtract(y, x, alpha)


def multiply(x: Operand, y: Operand) -> mx.array:
    """The product; of masks, their intersection."""
    left, right = promoted(x, y)
    return mx.logical_and(left, right) if left.dtype == mx.bool_ else left * right


def divide(x: Operand, y: Operand, *, rounding_mode: str | None = None) -> mx.array:
    """The quotient; integers become float32 unless the quotient is rounded."""
    left, right = promoted(x, y)
    match rounding_mode:
        case "floor":
            return floor_divide(left, right)
        case "trunc" if is_floating(left.dtype):
            return truncate(left / right)
        case "trunc":
            sign = mx.where((left < 0) == (right < 0), 1, -1).astype(left.dtype)
            return sign * (mx.abs(left) // mx.abs(right))
        case _:
            return floating(left) / floating(right)


def floor_divide(x: Operand, y: Operand) -> mx.array:
    """The quotient rounded down, as in Python."""
    left, right = promoted(x, y)
    return mx.floor(left / right) if is_floating(left.dtype) else left // right


def remainder(x: Operand, y: Operand) -> mx.array:
    """What a division leaves, with the sign of the divisor."""
    left, right = promoted(x, y)
    return mx.remainder(left, right)


def power(x: Operand, y: Operand) -> mx.array:
    """A power. Small whole powers are products: the logarithm of a negative base has no part in them."""
    left, right = promoted(x, y)
    if isinstance(y, mx.array) or y not in (0.5, 2, 3, 4):
        return mx.power(left, right)
    if y == 0.5:
        return mx.sqrt(left)
    square = left * left
    return {2: square, 3: square * left, 4: square * square}[int(y)]


def maximum(x: Operand, y: Operand) -> mx.array:
    """The larger; where both are equal, the gradient goes to both in halves."""
    left, right = promoted(x, y)
    larger = mx.maximum(left, right)
    return mx.where(left == right, (left + right) / 2, larger) if is_floating(left.dtype) else larger


def minimum(x: Operand, y: Operand) -> mx.array:
    """The smaller; where both are equal, the gradient goes to both in halves."""
    left, right = promoted(x, y)
    smaller = mx.minimum(left, right)
    return mx.where(left == right, (left + right) / 2, smaller) if is_floating(left.dtype) else smaller


def clamp(x: mx.array, min: Operand | None = None, max: Operand | None = None) -> mx.array:  # noqa: A002
    """X held within bounds; the gradient passes at a bound itself."""
    bounds = [bound for bound in (min, max) if bound is not None]
    x = as_array(x, result_dtype(x, *bounds))
    if min is not None:
        low = as_array(min, x.dtype)
        x = mx.where(x < low, low, x)
    if max is not None:
        high = as_array(max, x.dtype)
        x = mx.where(x > high, high, x)
    return x


def held(x: mx.array, low: Number = -1, high: Number = 1) -> mx.array:
    """X held between two numbers; unlike in a clamp, no gradient passes at a bound itself."""
    inside = mx.logical_and(x > low, x < high)
    return mx.where(inside, x, mx.clip(mx.stop_gradient(x), low, high))


def where(condition: mx.array, x: Operand, y: Operand) -> mx.array:
    """X where the condition holds, else y."""
    left, right = promoted(x, y)
    return mx.where(condition, left, right)


def masked_fill(x: mx.array, mask: mx.array, value: Operand) -> mx.array:
    """X, and the value where the mask holds; the dtype stays."""
    return mx.where(mask, as_array(value, x.dtype), x)


def addcmul(x: mx.array, one: mx.array, two: mx.array, *, value: Number = 1) -> mx.array:
    """The sum of x and a scaled product."""
    return add(x, multiply(multiply(one, two), value))


def addcdiv(x: mx.array, one: mx.array, two: mx.array, *, value: Number = 1) -> mx.array:
    """The sum of x and a scaled quotient."""
    return add(x, multiply(divide(one, two), value))


def lerp(x: mx.array, end: mx.array, weight: Operand) -> mx.array:
    """What lies between x and an end, at a share of the way."""
    return add(x, multiply(weight, subtract(end, x)))


def truncate(x: mx.array) -> mx.array:
    """The whole part, towards zero."""
    return mx.sign(x) * mx.floor(mx.abs(x))


def logical(operation: Binary) -> Callable[[Operand, Operand], mx.array]:
    """An operation on whether elements are not zero."""

    def apply(x: Operand, y: Operand) -> mx.array:
        return operation(as_array(x, mx.bool_), as_array(y, mx.bool_))

    return apply


def bitwise(on_bits: Binary) -> Callable[[Operand, Operand], mx.array]:
    """An operation on the bits of integers, or on masks."""

    def apply(x: Operand, y: Operand) -> mx.array:
        return on_bits(*promoted(x, y))

    return apply


def comparison(compare: Binary) -> Callable[[Operand, Operand], mx.array]:
    """A mask of the elements that compare so."""

    def apply(x: Operand, y: Operand) -> mx.array:
        return compare(*promoted(x, y))

    return apply


def with_fraction(function: Unary) -> Callable[[Operand], mx.array]:
    """A function of numbers with a fraction: integers become float32."""

    def apply(x: Operand) -> mx.array:
        return function(floating(x))

    return apply


def unless_whole(function: Unary) -> Unary:
    """A rounding, which leaves integers as they are."""

    def apply(x: mx.array) -> mx.array:
        return function(x) if is_floating(x.dtype) else x

    return apply


def bitwise_not(x: mx.array) -> mx.array:
    """All bits turned; of a mask, its complement."""
    return mx.logical_not(x) if x.dtype == mx.bool_ else mx.bitwise_invert(x)


def softplus(x: mx.array, beta: Number = 1, threshold: Number = 20) -> mx.array:
    """log(1 + exp(beta x)) / beta, and x itself above the threshold."""
    return mx.where(x * beta > threshold, x, mx.logaddexp(x * beta, mx.zeros_like(x)) / beta)


def gelu(x: mx.array, *, approximate: str = "none") -> mx.array:
    """Each element times the normal distribution up to it (arXiv:1606.08415), exact or by its tanh approximation."""
    if approximate == "tanh":
        return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))
    return x * (0.5 * (1 + mx.erf(x * math.sqrt(0.5))))


def leaky_relu(x: mx.array, negative_slope: Number = 0.01) -> mx.array:
    """X, scaled by a slope below zero."""
    return mx.where(x > 0, x, x * negative_slope)


def elu(x: mx.array, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> mx.array:
    """X above zero, a falling exponential below."""
    below = alpha * mx.expm1(mx.where(x > 0, 0.0, x * input_scale))
    return scale * mx.where(x > 0, x, below)


def _relu(x: mx.array) -> mx.array:
    return mx.where(x > 0, x, mx.zeros_like(x))


def _sigmoid_weighted(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _hard_sigmoid(x: mx.array) -> mx.array:
    return held(x + 3, 0, 6) / 6


_UNARY: Mapping[str, Callable[..., Any]] = {
    **{name: with_fraction(getattr(mx, name)) for name in ("exp", "expm1", "log", "log2", "log10", "log1p", "sqrt")},
    **{name: with_fraction(getattr(mx, name)) for name in ("rsqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: with_fraction(getattr(mx, name)) for name in ("sigmoid", "erf", "erfinv", "reciprocal")},
    "atan": with_fraction(mx.arctan),
    "floor": unless_whole(mx.floor),
    "ceil": unless_whole(mx.ceil),
    "round": unless_whole(mx.round),
    "trunc": unless_whole(truncate),
    "neg": mx.negative,
    "abs": mx.abs,
    "sign": mx.sign,
    "square": mx.square,
    "isnan": mx.isnan,
    "isinf": mx.isinf,
    "isfinite": mx.isfinite,
    "logical_not": mx.logical_not,
    "bitwise_not": bitwise_not,
    "relu": _relu,
    "relu6": lambda x: held(x, 0, 6),
    "silu": _sigmoid_weighted,
    "mish": lambda x: x * mx.tanh(softplus(x)),
    "hardsigmoid": _hard_sigmoid,
    "hardswish": lambda x: x * _hard_sigmoid(x),
    "log_sigmoid": lambda x: -softplus(-x),
    "gelu": gelu,
    "softplus": softplus,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "hardtanh": held,
}
_COMPARISONS: Mapping[str, Callable[..., Any]] = {
    "eq": comparison(mx.equal),
    "ne": comparison(mx.not_equal),
    "lt": comparison(mx.less),
    "le": comparison(mx.less_equal),
    "gt": comparison(mx.greater),
    "ge": comparison(mx.greater_equal),
}
_BITWISE: Mapping[str, Callable[..., Any]] = {
    "and": bitwise(mx.bitwise_and),
    "or": bitwise(mx.bitwise_or),
    "xor": bitwise(mx.bitwise_xor),
}

TABLE: Mapping[str, Callable[..., Any]] = {
    **{f"aten.{name}.default": function for name, function in _UNARY.items()},
    **{f"aten.{name}.{kind}": function for name, function in _COMPARISONS.items() for kind in ("Tensor", "Scalar")},
    **{f"aten.__{name}__.{k}": function for name, function in _BITWISE.items() for k in ("Tensor", "Scalar")},
    **{f"aten.bitwise_{name}.{k}": function for name, function in _BITWISE.items() for k in ("Tensor", "Scalar")},
    **{f"aten.add.{kind}": add for kind in ("Tensor", "Scalar")},
    **{f"aten.sub.{kind}": subtract for kind in ("Tensor", "Scalar")},
    **{f"aten.rsub.{kind}": subtract_from for kind in ("Tensor", "Scalar")},
    **{f"aten.mul.{kind}": multiply for kind in ("Tensor", "Scalar")},
    **{f"aten.div.{kind}": divide for kind in ("Tensor", "Scalar", "Tensor_mode", "Scalar_mode")},
    **{f"aten.remainder.{kind}": remainder for kind in ("Tensor", "Scalar")},
    **{f"aten.pow.{kind}": power for kind in ("Tensor_Scalar", "Tensor_Tensor", "Scalar")},
    **{f"aten.where.{kind}": where for kind in ("self", "ScalarOther", "ScalarSelf", "Scalar")},
    **{f"aten.masked_fill.{kind}": masked_fill for kind in ("Scalar", "Tensor")},
    **{f"aten.lerp.{kind}": lerp for kind in ("Scalar", "Tensor")},
    **{f"aten.clamp.{kind}": clamp for kind in ("default", "Tensor")},
    **{f"aten.clamp_min.{kind}": clamp for kind in ("default", "Tensor")},
    **{f"aten.clamp_max.{kind}": lambda x, high: clamp(x, None, high) for kind in ("default", "Tensor")},
    "aten.floor_divide.default": floor_divide,
    "aten.floor_divide.Scalar": floor_divide,
    "aten.maximum.default": maximum,
    "aten.minimum.default": minimum,
    "aten.max.other": maximum,
    "aten.min.other": minimum,
    "aten.logical_and.default": logical(mx.logical_and),
    "aten.logical_or.default": logical(mx.logical_or),
    "aten.logical_xor.default": logical(mx.not_equal),
    "aten.addcmul.default": addcmul,
    "aten.addcdiv.default": addcdiv,
    "aten.atan2.default": lambda x, y: mx.arctan2(*promoted(x, y)),
}
