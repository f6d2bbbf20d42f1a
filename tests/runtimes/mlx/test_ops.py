"""Every lowering against torch's own operation: values, dtype, shape and gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor

from runtimes.mlx.dtypes import DTYPES
from runtimes.mlx.graph import DType
from runtimes.mlx.ops import DRAWING, LOWERINGS


@dataclass(frozen=True)
class Case:
    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __str__(self) -> str:
        return self.op.removeprefix("aten.")


def case(op: str, *args: Any, **kwargs: Any) -> Case:
    return Case(f"aten.{op}", args, kwargs)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def whole(*shape: int, low: int = -5, high: int = 6, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high, shape))


def mask(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape) < 0.5)


X, Y, ROW, N, M, B = normal(3, 4), normal(3, 4, seed=1), normal(4, seed=2), whole(3, 4), whole(3, 4, seed=1), mask(3, 4)
SMALL, HALF, SCALAR = N.to(torch.int32), X.to(torch.bfloat16), torch.tensor(1.5)
POSITIVE = X.abs() + 0.1
WIDE = torch.tensor([-30.0, -3.0, -1.0, -0.0, 0.0, 1e-3, 1.0, 3.0, 6.0, 30.0])
IMAGES = normal(2, 4, 7, 9)
LOGITS, CLASSES = normal(6, 5), torch.tensor([0, 4, -100, 2, -100, 1])
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 0.25, 3.0])
SHARES = normal(6, 5, seed=3).softmax(-1)
NONE, MEAN, SUM = 0, 1, 2


FRACTIONS = (
    *("exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh"),
    *("sigmoid", "erf", "reciprocal", "atan"),
)
ACTIVATIONS = (
    *("relu", "relu6", "silu", "mish", "hardsigmoid", "hardswish", "log_sigmoid", "gelu", "softplus", "leaky_relu"),
    *("elu", "hardtanh"),
)


def elementwise() -> Iterator[Case]:
    for name in FRACTIONS:
        yield case(f"{name}.default", POSITIVE)
        yield case(f"{name}.default", whole(5, low=1))
    yield case("erfinv.default", torch.tensor([-0.9, 0.0, 0.5]))
    for name in ["floor", "ceil", "round", "trunc"]:
        yield case(f"{name}.default", 3 * X)
        yield case(f"{name}.default", torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5]))
        yield case(f"{name}.default", N)
    for name in ["neg", "abs", "sign", "square"]:
        yield case(f"{name}.default", WIDE)
        yield case(f"{name}.default", N)
    for name in ["isnan", "isinf", "isfinite"]:
        yield case(f"{name}.default", torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]))
    for name in ACTIVATIONS:
        yield case(f"{name}.default", WIDE)
    yield case("gelu.default", WIDE, approximate="tanh")
    yield case("softplus.default", X, 2, 1)
    yield case("leaky_relu.default", X, 0.3)
    yield case("elu.default", X, 0.5, 2, 1.5)
    yield case("hardtanh.default", X, -0.5, 0.25)
    yield case("logical_not.default", N)
    yield case("bitwise_not.default", N)
    yield case("bitwise_not.default", B)


def arithmetic() -> Iterator[Case]:
    pairs = ((X, Y), (X, ROW), (X, N), (N, M), (SMALL, N), (HALF, X), (HALF, SCALAR), (N, SCALAR), (X, torch.tensor(2)))
    for name in ["add", "mul", "sub"]:
        yield from (case(f"{name}.Tensor", *pair) for pair in pairs)
        yield from (case(f"{name}.Tensor", left, right) for left in (X, N, HALF) for right in (2, 1.5))
        yield from (case(f"{name}.Scalar", left, 2.5) for left in (X, N))
    for name in ["add", "mul"]:
        yield from (case(f"{name}.Tensor", *pair) for pair in ((B, B), (B, N), (X, B), (B, 2), (B, 0.5)))
    yield from (case(f"{name}.Tensor", X, Y, alpha=0.5) for name in ("add", "sub", "rsub"))
    yield case("add.Tensor", N, M, alpha=3)
    yield case("rsub.Scalar", X, 1.0)
    yield case("rsub.Scalar", N, 1.5, 2)
    yield from (case("div.Tensor", *pair) for pair in ((X, POSITIVE), (N, M.abs() + 1), (N, 2), (X, 3), (HALF, 2.0)))
    yield case("div.Scalar", N, 4)
    for mode in ("floor", "trunc", None):
        yield case("div.Tensor_mode", 3 * X, POSITIVE, rounding_mode=mode)
        yield case("div.Tensor_mode", N, M.abs() + 1, rounding_mode=mode)
        yield case("div.Tensor_mode", N, -M.abs() - 1, rounding_mode=mode)
        yield case("div.Scalar_mode", N, 2, rounding_mode=mode)
    for name in ("floor_divide.default", "remainder.Tensor"):
        yield case(name, N, M.abs() + 1)
        yield case(name, N, -M.abs() - 1)
        yield case(name, 3 * X, POSITIVE)
    yield case("floor_divide.Scalar", N, 2)
    yield case("remainder.Scalar", N, 3)
    yield case("remainder.Scalar", X, 0.7)
    yield from (case("pow.Tensor_Scalar", X, power) for power in (1, 2, 3, 4, 2.0, 3.0))
    yield from (case("pow.Tensor_Scalar", POSITIVE, power) for power in (0.5, -0.5, -1, 1.7))
    yield case("pow.Tensor_Scalar", N, 2)
    yield case("pow.Tensor_Tensor", POSITIVE, Y)
    yield case("pow.Scalar", 2, X)
    for name in ["maximum", "minimum"]:
        yield from (case(f"{name}.default", *pair) for pair in ((X, Y), (X, X), (N, M), (N, X)))
    yield case("max.other", X, Y)
    yield case("min.other", N, M)
    yield case("clamp.default", X, -0.5, 0.5)
    yield case("clamp.default", X, None, 0.5)
    yield case("clamp.default", N, -2, 2)
    yield case("clamp.default", N, 0.5)
    yield case("clamp.default", WIDE, 0.0, 6.0)
    yield case("clamp.Tensor", X, ROW, None)
    yield case("clamp_min.default", X, 0.1)
    yield case("clamp_min.Tensor", X, ROW)
    yield case("clamp_max.default", X, 0.1)
    yield case("clamp_max.Tensor", X, ROW)
    yield case("lerp.Scalar", X, Y, 0.3)
    yield case("lerp.Tensor", X, Y, ROW)
    yield case("addcmul.default", X, Y, ROW, value=0.5)
    yield case("addcdiv.default", X, Y, POSITIVE, value=0.5)
    yield case("atan2.default", X, Y)


def masks() -> Iterator[Case]:
    for name in ["eq", "ne", "lt", "le", "gt", "ge"]:
        yield from (case(f"{name}.Tensor", *pair) for pair in ((X, Y), (X, X), (N, M), (N, X), (SMALL, N)))
        yield from (case(f"{name}.Scalar", *pair) for pair in ((X, 0), (N, 1), (N, 0.5)))
    for name in ["and", "or", "xor"]:
        yield from (case(f"__{name}__.Tensor", *pair) for pair in ((B, mask(4)), (N, M), (B, N)))
        yield case(f"__{name}__.Scalar", N, 3)
        yield case(f"bitwise_{name}.Tensor", N, M)
        yield case(f"bitwise_{name}.Scalar", B, True)
        yield case(f"logical_{name}.default", N, B)
    yield case("where.self", B, X, Y)
    yield case("where.self", B, X, SCALAR)
    yield case("where.self", B, N, X)
    yield case("where.self", B, HALF, SCALAR)
    yield case("where.ScalarOther", B, X, 0.0)
    yield case("where.ScalarOther", B, HALF, -1e4)
    yield case("where.ScalarSelf", B, 1, X)
    yield case("where.Scalar", B, 1.0, 2.0)
    yield case("masked_fill.Scalar", X, mask(4), float("-inf"))
    yield case("masked_fill.Scalar", N, B, 7)
    yield case("masked_fill.Tensor", X, B, SCALAR)


def shapes() -> Iterator[Case]:
    cube = normal(2, 3, 4)
    yield from (case(f"{name}.default", cube, [2, -1]) for name in ("view", "reshape", "_unsafe_view"))
    yield from (case(f"{name}.default", cube) for name in ("alias", "contiguous", "clone", "lift_fresh_copy"))
    yield from (case(f"{name}.default", N) for name in ("lift", "lift_fresh"))
    yield case("detach.default", N)
    yield case("expand.default", normal(3, 1), [2, -1, 4])
    yield case("expand_as.default", ROW, X)
    yield case("broadcast_tensors.default", [ROW, X])
    yield case("unsqueeze.default", cube, -1)
    yield case("squeeze.default", normal(1, 3, 1))
    yield case("squeeze.dim", normal(1, 3, 1), 1)
    yield case("squeeze.dim", normal(1, 3, 1), -1)
    yield case("squeeze.dims", normal(1, 3, 1), [0, 1])
    yield case("flatten.using_ints", cube, 1)
    yield case("unflatten.int", X, 1, [2, -1])
    yield case("permute.default", cube, [2, 0, -2])
    yield case("transpose.int", cube, -1, 1)
    yield from (case(f"{name}.default", part) for name in ("t", "numpy_T") for part in (X, ROW))
    yield case("movedim.int", cube, 0, -1)
    yield case("cat.default", [X, Y], -1)
    yield case("cat.default", [X, N, SMALL])
    yield case("cat.default", [torch.zeros(0), X])
    yield case("stack.default", [X, Y], 1)
    yield case("split.Tensor", normal(7, 2), 3)
    yield case("split_with_sizes.default", normal(2, 7), [1, 4, 2], -1)
    yield case("chunk.default", normal(7, 2), 3)
    yield case("unbind.int", cube, 1)
    yield from (case("slice.Tensor", cube, *part) for part in ((1, 0, 2**63 - 1), (2, 1, -1), (2, 0, 99, 2), (0, -1)))
    yield case("select.int", cube, -1, -2)
    yield case("narrow.default", cube, 2, 1, 2)
    yield case("repeat.default", X, [2, 1, 3])
    yield case("repeat_interleave.self_int", X, 2, 1)
    yield case("repeat_interleave.self_int", X, 2)
    yield case("pad.default", cube, [1, 2, 0, 3], "constant", 2.0)
    yield case("pad.default", cube, [-1, 2])
    yield case("constant_pad_nd.default", N, [1, 0, -1, 1], 9)
    yield case("flip.default", cube, [0, -1])
    yield case("roll.default", X, [1], [1])
    yield case("roll.default", X, [1, -2], [0, 1])
    yield case("roll.default", X, [5])
    yield from (case(f"{name}.default", normal(4, 5), at) for name in ("tril", "triu") for at in (-1, 0, 2))


def creation() -> Iterator[Case]:
    floats, halves, wholes = torch.float32, torch.bfloat16, torch.int64
    yield from (case("full.default", [2, 3], value) for value in (1.5, 2, True))
    yield case("full.default", [], 2, dtype=floats)
    yield from (case(f"{name}.default", [2, 3], dtype=kind) for name in ("zeros", "ones") for kind in (None, wholes))
    yield from (case(f"{name}_like.default", HALF) for name in ("zeros", "ones"))
    yield case("full_like.default", N, 3)
    yield case("full_like.default", N, 1.5, dtype=floats)
    yield from (case(f"new_{name}.default", HALF, [2]) for name in ("zeros", "ones"))
    yield case("new_full.default", N, [2, 2], 4)
    yield case("new_ones.default", N, [], dtype=torch.bool)
    yield case("arange.default", 5)
    yield case("arange.default", 2.5)
    yield case("arange.default", 4, dtype=floats)
    yield case("arange.start", 2, 7)
    yield case("arange.start_step", 7, 0, -2)
    yield case("arange.start_step", 0, 2**25 + 3, 2**24, dtype=wholes)
    yield case("arange.start_step", 0.0, 1.0, 0.25)
    yield case("scalar_tensor.default", 2)
    yield case("scalar_tensor.default", 2, dtype=wholes)
    yield case("eye.default", 3)
    yield case("eye.m", 2, 3)
    yield case("_to_copy.default", 3 * X, dtype=wholes)
    yield case("_to_copy.default", N, dtype=torch.bool)
    yield case("_to_copy.default", X, dtype=halves)
    yield case("to.dtype", N, floats)
    yield case("to.dtype", X, halves, False, True)
    yield case("to.device", X, torch.device("cpu"), halves)
    yield case("type_as.default", X, N)
    yield case("copy.default", X, ROW)
    yield case("copy.default", N, X)
    yield case("fill.Scalar", X, 2)
    yield case("fill.Tensor", X, torch.tensor(2.7))
    yield case("fill.Tensor", N, torch.tensor(2))
    yield case("one_hot.default", whole(2, 3, low=0, high=4), 4)


def indexing() -> Iterator[Case]:
    table, cube = normal(7, 3), normal(4, 5, 6)
    rows, columns = torch.tensor([[0, 3], [1, -1]]), torch.tensor([2, 0])
    yield case("embedding.default", table, rows.abs())
    yield case("embedding.default", table, torch.tensor([0, 1, 1, 6]), 1)
    yield case("index.Tensor", cube, [rows])
    yield case("index.Tensor", cube, [None, columns])
    yield case("index.Tensor", cube, [columns, None, columns])
    yield case("index.Tensor", cube, [rows, columns])
    yield case("index_select.default", cube, 1, columns)
    yield case("gather.default", cube, 2, whole(4, 5, 2, low=0, high=6))
    yield case("gather.default", cube, -1, whole(2, 3, 6, low=0, high=6))
    yield case("take_along_dim.default", X, X.argsort(1), 1)
    yield case("index_put.default", X, [columns], normal(2, 4, seed=5))
    yield case("index_put.default", X, [None, columns], SCALAR)
    yield case("index_put.default", X, [columns, columns], torch.ones(2), True)
    yield case("index_put.default", X, [torch.tensor([1, 1])], torch.ones(2, 4), True)
    yield case("index_put.default", cube, [None, columns], normal(4, 2, 6, seed=5))
    yield case("index_put.default", cube, [columns, None, rows], normal(2, 2, 5, seed=5), True)
    yield case("index_put.default", cube, [None, rows, rows], normal(2, seed=5))
    yield case("index_put.default", X, [B], SCALAR)
    yield case("index_put.default", X, [mask(3)], SCALAR, True)
    yield case("scatter.src", X, 1, torch.tensor([[0], [3], [1]]), normal(3, 2, seed=5)[:, :1])
    yield case("scatter.value", X, 1, torch.tensor([[0], [3], [1]]), 2.0)
    yield case("scatter_add.default", X, 1, torch.tensor([[0, 0], [3, 1]]), normal(2, 2, seed=5))
    yield case("scatter_add.default", X, 0, whole(2, 4, low=0, high=3), normal(2, 4, seed=5))
    yield case("slice_scatter.default", cube, normal(4, 2, 6, seed=5), 1, 1, 3)
    yield case("slice_scatter.default", cube, normal(4, 5, 3, seed=5), -1, 0, 2**63 - 1, 2)
    yield case("select_scatter.default", cube, normal(4, 6, seed=5), 1, -1)


def reductions() -> Iterator[Case]:
    cube = normal(2, 3, 4)
    for source in (cube, N, SMALL, B, HALF):
        yield case("sum.default", source)
        yield case("sum.dim_IntList", source, [-1], True)
    yield case("sum.dim_IntList", cube, [0, 2])
    yield case("sum.dim_IntList", cube, None)
    yield case("sum.default", N, dtype=torch.float32)
    yield case("mean.default", cube)
    yield case("mean.default", N, dtype=torch.float32)
    yield case("mean.dim", cube, [1, -1], True)
    yield case("var.correction", cube, [1], correction=1)
    yield case("var.correction", cube, [0, 2], correction=0, keepdim=True)
    yield case("var.correction", cube)
    yield case("var.dim", cube, [1], False, True)
    yield case("std.correction", cube, [-1], correction=0)
    yield case("prod.default", N)
    yield case("prod.dim_int", cube, 1, True)
    yield from (case("cumsum.default", source, -1) for source in (cube, N, SMALL, B))
    yield case("cumsum.default", B, 0, dtype=torch.int32)
    for name in ["argmax", "argmin"]:
        yield case(f"{name}.default", cube)
        yield case(f"{name}.default", cube, -1)
        yield case(f"{name}.default", N, 1, True)
    for name in ["max", "min"]:
        yield case(f"{name}.default", cube)
        yield case(f"{name}.dim", cube, -1)
        yield case(f"{name}.dim", torch.ones(3, 2), 0, True)
        yield case(f"a{name}.default", cube, [0, -1])
        yield case(f"a{name}.default", torch.ones(3, 2), [1], True)
    for name in ["any", "all"]:
        yield case(f"{name}.default", B)
        yield case(f"{name}.default", N)
        yield case(f"{name}.dim", N, 1, True)
        yield case(f"{name}.dims", B, [0, 1])
    yield case("softmax.int", cube, 1)
    yield case("softmax.int", N, -1, torch.float32)
    yield case("softmax.int", HALF, -1, torch.float32)
    yield case("_softmax.default", cube, -1, False)
    yield case("log_softmax.int", 30 * cube, -1)
    yield case("log_softmax.int", HALF, -1, torch.float32)
    yield case("_log_softmax.default", cube, 1, False)
    yield case("sort.default", cube, 1)
    yield case("sort.default", cube, -1, True)
    yield case("topk.default", cube, 2)
    yield case("topk.default", cube, 2, 1, False)
    yield case("logsumexp.default", cube, [1, 2], True)
    yield from (case("linalg_vector_norm.default", cube, order, [-1], True) for order in (1, 2, 3, float("inf")))
    yield case("linalg_norm.default", X)
    yield case("linalg_norm.default", X, None, [1])
    yield case("linalg_norm.default", X, 1, [1], True)


def products() -> Iterator[Case]:
    yield case("linear.default", normal(2, 3, 4), normal(5, 4), normal(5))
    yield case("linear.default", ROW, normal(5, 4))
    yield case("matmul.default", normal(2, 1, 3, 4), normal(5, 4, 3))
    yield case("matmul.default", X, ROW)
    yield from (case(f"{name}.default", X, Y.T.contiguous()) for name in ("mm", "matmul"))
    yield case("bmm.default", normal(2, 3, 4), normal(2, 4, 5))
    yield case("mv.default", X, ROW)
    yield case("dot.default", ROW, ROW)
    yield case("addmm.default", normal(3), X, normal(4, 3), beta=0.5, alpha=2)
    yield case("baddbmm.default", normal(2, 3, 5), normal(2, 3, 4), normal(2, 4, 5))
    yield case("einsum.default", "bij,bjk->bik", [normal(2, 3, 4), normal(2, 4, 5)])
    kernel, wide = normal(6, 4, 3, 3), normal(6, 2, 3, 5)
    yield case("conv2d.default", IMAGES, kernel, normal(6), [2, 1], [1, 0])
    yield case("conv2d.default", IMAGES, kernel, None, [1], [2], [2])
    yield case("conv2d.default", IMAGES, wide, normal(6), [1, 1], [1, 2], [1, 1], 2)
    yield case("conv2d.padding", IMAGES, normal(6, 4, 4, 3), None, [1, 1], "same")
    yield case("conv2d.padding", IMAGES, kernel, None, [1, 1], "valid")
    yield case("conv1d.default", normal(2, 4, 9), normal(6, 4, 3), normal(6), [2], [1])
    yield case("conv1d.padding", normal(2, 4, 9), normal(6, 4, 4), None, [1], "same")


def norms() -> Iterator[Case]:
    yield case("layer_norm.default", normal(2, 3, 4), [4], normal(4), normal(4, seed=1), 1e-12, False)
    yield case("layer_norm.default", normal(2, 3, 4), [3, 4], normal(3, 4), normal(3, 4, seed=1))
    yield case("layer_norm.default", normal(2, 3, 4), [4])
    yield case("rms_norm.default", normal(2, 3, 4), [4], normal(4), 1e-6)
    yield case("rms_norm.default", normal(2, 3, 4), [4])
    yield case("group_norm.default", IMAGES, 2, normal(4), normal(4, seed=1))
    statistics = (normal(4, seed=2), normal(4, seed=3).abs() + 0.5)
    for training in (True, False):
        yield case("batch_norm.default", IMAGES, normal(4), normal(4), None, None, True, 0.1, 1e-5, False)
        args = (IMAGES, normal(4), normal(4, seed=1), *statistics, training, 0.3, 1e-3)
        yield case("_native_batch_norm_legit_functional.default", *args)
    yield case("_native_batch_norm_legit_no_training.default", IMAGES, None, None, *statistics, 0.1, 1e-5)
    yield case("_native_batch_norm_legit_functional.default", X, ROW, ROW, ROW, ROW.abs(), True, 0.1, 1e-5)


def losses() -> Iterator[Case]:
    logged, spatial = LOGITS.log_softmax(-1), normal(2, 5, 3)
    for weight in (None, CLASS_WEIGHTS):
        for reduction in (NONE, MEAN, SUM):
            yield case("cross_entropy_loss.default", LOGITS, CLASSES, weight, reduction)
            yield case("cross_entropy_loss.default", LOGITS, CLASSES.abs() % 5, weight, reduction, 2)
            yield case("cross_entropy_loss.default", LOGITS, CLASSES, weight, reduction, -100, 0.2)
            yield case("cross_entropy_loss.default", LOGITS, SHARES, weight, reduction, -100, 0.2)
            yield case("nll_loss.default", logged, CLASSES, weight, reduction)
            yield case("nll_loss_nd.default", logged, CLASSES, weight, reduction)
    yield case("cross_entropy_loss.default", 200 * LOGITS, CLASSES, None, SUM)
    yield case("cross_entropy_loss.default", spatial, whole(2, 3, low=0, high=5), CLASS_WEIGHTS, MEAN, -100, 0.1)
    yield case("cross_entropy_loss.default", normal(5), torch.tensor(3))
    for reduction in (NONE, MEAN, SUM):
        yield case("binary_cross_entropy_with_logits.default", 20 * X, SHARES[:3, :4], None, None, reduction)
        yield case("binary_cross_entropy_with_logits.default", X, SHARES[:3, :4], ROW.abs(), POSITIVE, reduction)
        yield from (
            case(f"{name}.default", X, Y, reduction) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
        )
    yield case("smooth_l1_loss.default", X, Y, MEAN, 0.3)
    yield case("huber_loss.default", X, Y, MEAN, 0.3)


def pooling() -> Iterator[Case]:
    yield case("max_pool2d.default", IMAGES, [3, 3], [2, 2], [1, 1])
    yield case("max_pool2d.default", IMAGES, [2], [], [0], [2], True)
    yield case("max_pool2d.default", torch.zeros(1, 1, 4, 4), [2, 2])
    yield case("max_pool2d.default", IMAGES - 9, [3, 3], [2, 2], [1, 1], [1, 1], True)
    yield case("avg_pool2d.default", IMAGES, [3, 3], [2, 2], [1, 1])
    yield case("avg_pool2d.default", IMAGES, [3, 2], [2, 2], [1, 1], True, False)
    yield case("avg_pool2d.default", IMAGES, [3, 3], [2, 2], [1, 1], True)
    yield case("avg_pool2d.default", IMAGES, [2, 2], [], [0, 0], False, True, 3)
    yield case("adaptive_avg_pool1d.default", normal(2, 3, 7), [3])
    for name in ("adaptive_avg_pool2d", "_adaptive_avg_pool2d"):
        yield from (case(f"{name}.default", IMAGES, size) for size in ([1, 1], [3, 4], [7, 2]))


def attention() -> Iterator[Case]:
    name = "scaled_dot_product_attention.default"
    queries, keys, values = normal(2, 4, 5, 8), normal(2, 4, 6, 8, seed=1), normal(2, 4, 6, 8, seed=2)
    seen = mask(2, 1, 5, 6)
    seen[0, :, 1], seen[1, :, 2] = False, True
    yield case(name, queries, keys, values)
    yield case(name, queries, keys, values, scale=0.2)
    yield case(name, queries, keys, values, seen)
    yield case(name, queries, keys, values, normal(4, 5, 6))
    yield case(name, queries, keys, values, torch.zeros(2, 1, 5, 6).masked_fill(~seen, float("-inf")))
    yield case(name, queries, keys, values, torch.zeros(2, 1, 5, 6).masked_fill(~seen, torch.finfo(torch.float32).min))
    yield case(name, queries, keys, values, None, 0.0, True)
    yield case(name, keys, keys, values, None, 0.0, True)
    yield case(name, queries, keys[:, :2], values[:, :2], seen, enable_gqa=True)
    yield case(name, queries, keys[:, :1], values[:, :1], None, 0.0, False, enable_gqa=True)
    yield case(name, queries[0], keys[0], values[0])
    yield case(name, queries, keys, normal(2, 4, 6, 3))


GROUPS = (
    *(elementwise, arithmetic, masks, shapes, creation, indexing),
    *(reductions, products, norms, losses, pooling, attention),
)
CASES = [found for group in GROUPS for found in group()]


def converted(argument: Any) -> Any:
    match argument:
        case Tensor():
            held = argument.detach()
            if held.dtype == torch.bfloat16:
                return mx.array(held.float().numpy()).astype(mx.bfloat16)
            return mx.array(held.numpy())
        case list():
            return [converted(part) for part in argument]
        case torch.dtype():
            return DType(str(argument).removeprefix("torch."))
        case torch.device():
            return None
        case _:
            return argument


def lowered(found: Case) -> Any:
    key = (mx.random.key(0),) if found.op in DRAWING else ()
    kwargs = {name: converted(argument) for name, argument in found.kwargs.items()}
    return LOWERINGS[found.op](*key, *converted(list(found.args)), **kwargs)


def overload(op: str) -> Any:
    _, name, kind = op.split(".")
    return getattr(getattr(torch.ops.aten, name), kind)


def results(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def assert_same(found: mx.array, expected: Tensor) -> None:
    assert tuple(found.shape) == tuple(expected.shape)
    assert found.dtype == DTYPES[str(expected.dtype).removeprefix("torch.")]
    expected = expected.float() if expected.is_floating_point() else expected
    relative, absolute = {mx.float32: (2e-5, 2e-6), mx.bfloat16: (2**-7, 2**-7)}.get(found.dtype, (0.0, 0.0))
    numbers = np.array(found.astype(mx.float32) if found.dtype == mx.bfloat16 else found)
    np.testing.assert_allclose(numbers, expected.numpy(), rtol=relative, atol=absolute)


@pytest.mark.parametrize("found", CASES, ids=str)
def test_values_and_dtypes_equal_torchs(found: Case) -> None:
    expected = results(overload(found.op)(*found.args, **found.kwargs))
    for own, theirs in zip(results(lowered(found)), expected, strict=True):
        if theirs.numel():
            assert_same(own, theirs)


# Where torch differentiates by fewer operands than are floating.
DIFFERENTIATED = {
    "aten.cross_entropy_loss.default": (0,),
    "aten.nll_loss.default": (0,),
    "aten.nll_loss_nd.default": (0,),
    "aten.binary_cross_entropy_with_logits.default": (0,),
    "aten._native_batch_norm_legit_functional.default": (0, 1, 2),
    "aten._native_batch_norm_legit_no_training.default": (0, 1, 2),
}


def leaves_of(found: Case) -> dict[int, Tensor]:
    """The operands that torch differentiates by, by their places."""
    places = DIFFERENTIATED.get(found.op, range(len(found.args)))
    parts = {at: found.args[at] for at in places}
    return {
        at: part.clone().requires_grad_()
        for at, part in parts.items()
        if isinstance(part, Tensor) and part.dtype == torch.float32
    }


def first_result(found: Case, leaves: dict[int, Tensor]) -> Tensor:
    args = [leaves.get(at, part) for at, part in enumerate(found.args)]
    first: Tensor = results(overload(found.op)(*args, **found.kwargs))[0]
    return first


UNDEFINED = frozenset({"aten.floor_divide.default", "aten.copy.default"})  # torch has no derivative of these
DIFFERENTIABLE = [
    found
    for found in CASES
    if found.op not in UNDEFINED and leaves_of(found) and first_result(found, leaves_of(found)).requires_grad
]


@pytest.mark.parametrize("found", DIFFERENTIABLE, ids=str)
def test_gradients_equal_torchs(found: Case) -> None:
    leaves = leaves_of(found)
    expected = first_result(found, leaves)
    slope = normal(*expected.shape, seed=9)
    (expected.float() * slope).sum().backward()

    def total(values: dict[str, mx.array]) -> mx.array:
        args = tuple(values.get(str(at), part) for at, part in enumerate(found.args))
        out = results(lowered(Case(found.op, args, found.kwargs)))[0]
        return mx.sum(out.astype(mx.float32) * mx.array(slope.numpy()))

    gradients = mx.grad(total)({str(at): converted(leaf) for at, leaf in leaves.items()})
    for at, leaf in leaves.items():
        wanted = np.zeros(leaf.shape, np.float32) if leaf.grad is None else leaf.grad.numpy()
        np.testing.assert_allclose(np.array(gradients[str(at)]), wanted, rtol=1e-4, atol=1e-5)


def test_every_lowering_has_a_case() -> None:
    lawful = {"aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default"}  # any value will do
    tested = {found.op for found in CASES} | lawful
    untested = {op for op in LOWERINGS if op.startswith("aten.") and op not in tested and op not in DRAWING}
    assert untested == {"aten.sym_size.int", "aten.sym_numel.default", "aten.max_pool2d_with_indices.default"}
