"""Torch's dtypes and its rules of promotion, on MLX arrays.

Source of the rules: torch/csrc/utils/tensor_dtypes and ATen/native/TypeProperties.cpp (`result_type`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import mlx.core as mx

Number = bool | int | float
Operand = mx.array | Number

# MLX computes float64 on CPU only; where a torch graph asks for it, it gets float32.
DTYPES: Mapping[str, mx.Dtype] = {
    "bool": mx.bool_,
    "uint8": mx.uint8,
    "uint32": mx.uint32,  # the packed codes of quantized weights
    "int8": mx.int8,
    "int16": mx.int16,
    "int32": mx.int32,
    "int64": mx.int64,
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "float32": mx.float32,
    "float64": mx.float32,
}
_INTEGERS = (mx.bool_, mx.uint8, mx.int8, mx.int16, mx.int32, mx.int64)  # each holds those before it, but one pair


def is_floating(dtype: mx.Dtype) -> bool:
    """Whether numbers of the dtype have a fraction."""
    return bool(mx.issubdtype(dtype, mx.floating))


def promoted_pair(one: mx.Dtype, two: mx.Dtype) -> mx.Dtype:
    """The smallest dtype that torch takes for both."""
    if one == two:
        return one
    if is_floating(one) and is_floating(two):
        return mx.float32  # of two of float16, bfloat16 and float32, no other holds both
    if is_floating(one) or is_floating(two):
        return one if is_floating(one) else two
    if {one, two} == {mx.uint8, mx.int8}:
        return mx.int16
    return max(one, two, key=_INTEGERS.index)


def result_dtype(*operands: Operand) -> mx.Dtype:
    """The dtype in which torch computes: tensors with axes decide before scalars do, tensors before numbers."""
    tensors = [operand.dtype for operand in operands if isinstance(operand, mx.array) and operand.ndim]
    scalars = [operand.dtype for operand in operands if isinstance(operand, mx.array) and not operand.ndim]
    numbers = [_number_dtype(operand) for operand in operands if not isinstance(operand, mx.array)]
    classes = [reduce(promoted_pair, members) for members in (tensors, scalars, numbers) if members]
    return reduce(_outranks, classes)


def _outranks(higher: mx.Dtype, lower: mx.Dtype) -> mx.Dtype:
    """The higher class decides, unless the lower one is of a wider kind: bool, integer, floating."""
    if is_floating(higher) or (higher != mx.bool_ and not is_floating(lower)):
        return higher
    return promoted_pair(higher, lower)


def _number_dtype(number: Number) -> mx.Dtype:
    if isinstance(number, bool):
        return mx.bool_
    return mx.int64 if isinstance(number, int) else mx.float32


def as_array(operand: Operand, dtype: mx.Dtype) -> mx.array:
    """The operand in a dtype."""
    if isinstance(operand, mx.array):
        return operand if operand.dtype == dtype else operand.astype(dtype)
    return mx.array(operand, dtype)


def promoted(*operands: Operand) -> list[mx.array]:
    """The operands in the dtype in which torch computes with them."""
    dtype = result_dtype(*operands)
    return [as_array(operand, dtype) for operand in operands]


def floating(operand: Operand) -> mx.array:
    """The operand where torch needs a fraction: integers become float32."""
    dtype = result_dtype(operand)
    return as_array(operand, dtype if is_floating(dtype) else mx.float32)
