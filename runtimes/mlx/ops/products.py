"""Matrix products and convolutions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import mlx.core as mx

from runtimes.mlx.dtypes import Number

# B = batch, C = channels, H = height, W = width, O = output channels


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """The product with a transposed weight, plus a bias."""
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def quantized_linear(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    biases: mx.array,
    bias: mx.array | None = None,
    *,
    bits: int,
    group_size: int,
) -> mx.array:
    """As linear, with a weight of a few bits, and a scale and a bias for each group of its inputs."""
    if mx.default_device().type == mx.DeviceType.cpu:
        product = _unpacked_product(bits, group_size)(x, codes, scales, biases)
    else:
        product = mx.quantized_matmul(x, codes, scales, biases, transpose=True, group_size=group_size, bits=bits)
    return product if bias is None else product + bias


def quantized_product(
    x: mx.array,
    codes: mx.array,
    scales: mx.array,
    biases: mx.array,
    bias: mx.array | None = None,
    *,
    bits: int,
    group_size: int,
) -> mx.array:
    """As quantized_linear, by one operation of MLX on every device: a function can hold it, and has no gradients."""
    product = mx.quantized_matmul(x, codes, scales, biases, transpose=True, group_size=group_size, bits=bits)
    return product if bias is None else product + bias


@functools.cache
def _unpacked_product(bits: int, group_size: int) -> Callable[..., mx.array]:
    """The product by way of the weight's values: on a CPU with a real BLAS, many times faster than `quantized_matmul`.

    They are made anew for the gradient, so that only the few weights in flight are held in float.
    """
    unpack = functools.partial(mx.dequantize, bits=bits, group_size=group_size)

    @mx.custom_function
    def product(x: mx.array, codes: mx.array, scales: mx.array, biases: mx.array) -> mx.array:
        return x @ unpack(codes, scales, biases).T

    @product.vjp
    def gradient(primals: Sequence[mx.array], cotangent: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        _, *held = primals
        later = mx.depends(held, cotangent)  # else a compiled graph keeps the values of the forward pass
        return cotangent @ unpack(*later), *(mx.zeros_like(part) for part in held)

    return cast(Callable[..., mx.array], product)


def addmm(bias: mx.array, x: mx.array, y: mx.array, *, beta: Number = 1, alpha: Number = 1) -> mx.array:
    """Beta bias + alpha x y."""
    return mx.addmm(bias, x, y, alpha=alpha, beta=beta)


def einsum(equation: str, operands: Sequence[mx.array], *, path: object = None) -> mx.array:
    """A sum of products in Einstein's notation."""
    return mx.einsum(equation, *operands)


def convolution(axes: int) -> Callable[..., mx.array]:
    """A convolution over so many axes; torch has channels first, MLX last."""

    def convolve(
        x: mx.array,
        weight: mx.array,
        bias: mx.array | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] | str = (0,),
        dilation: Sequence[int] = (1,),
        groups: int = 1,
    ) -> mx.array:
        steps, spread = _each(stride, axes), _each(dilation, axes)
        low, high = _padding(padding, weight.shape[2:], spread)
        found = mx.conv_general(
            mx.moveaxis(x, 1, -1),
            mx.moveaxis(weight, 1, -1),
            stride=steps,
            padding=(low, high),
            kernel_dilation=spread,
            groups=groups,
        )
        return mx.moveaxis(found if bias is None else found + bias, -1, 1)

    return convolve


def _padding(
    padding: Sequence[int] | str, kernel: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Elements added before and behind each axis; `same` adds the odd one behind."""
    if padding == "valid":
        return [0] * len(kernel), [0] * len(kernel)
    if isinstance(padding, str):
        wanted = [spread * (size - 1) for spread, size in zip(dilation, kernel, strict=True)]
        return [size // 2 for size in wanted], [size - size // 2 for size in wanted]
    both = _each(padding, len(kernel))
    return both, both


def _each(values: Sequence[int] | int, count: int) -> list[int]:
    """One value for every axis."""
    listed = [values] if isinstance(values, int) else list(values)
    return listed * count if len(listed) == 1 else listed


TABLE: Mapping[str, Callable[..., Any]] = {
    "aten.linear.default": linear,
    "mlx.quantized_linear": quantized_linear,  # what the pass of that name writes
    "mlx.quantized_product": quantized_product,
    "aten.matmul.default": mx.matmul,
    "aten.mm.default": mx.matmul,
    "aten.bmm.default": mx.matmul,
    "aten.mv.default": mx.matmul,
    "aten.dot.default": mx.matmul,
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": addmm,
    "aten.einsum.default": einsum,
    "aten.conv1d.default": convolution(1),
    "aten.conv2d.default": convolution(2),
    "aten.conv1d.padding": convolution(1),
    "aten.conv2d.padding": convolution(2),
}
