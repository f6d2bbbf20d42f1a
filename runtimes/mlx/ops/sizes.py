"""Sizes: Python numbers that are known when the graph runs, and what is computed from them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx


def size(x: mx.array, axis: int) -> int:
    """The length of an axis."""
    return int(x.shape[axis])


_OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "getitem"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
)
TABLE: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _OPERATORS},
    "aten.sym_size.int": size,
    "aten.sym_numel.default": lambda x: int(x.size),
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_float": float,
    "torch.sym_int": int,
    "torch.sym_not": operator.not_,
    "torch.sym_ite": lambda condition, one, two: one if condition else two,
}
