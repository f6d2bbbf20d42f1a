from __future__ import annotations

import itertools

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import torch

from runtimes.mlx.dtypes import DTYPES, Number, result_dtype

NAMES = [name for name in DTYPES if name not in ("float64", "uint32")]  # torch promotes no uint32
NUMBERS: list[Number] = [True, 2, 0.5]


def torchs(name: str, ndim: int) -> torch.Tensor:
    return torch.zeros((1,) * ndim, dtype=getattr(torch, name))


def ours(name: str, ndim: int) -> mx.array:
    return mx.zeros((1,) * ndim, DTYPES[name])


@pytest.mark.parametrize(("left", "right"), list(itertools.product(NAMES, NAMES)))
def test_two_tensors_with_or_without_axes_promote_as_in_torch(left: str, right: str) -> None:
    for axes in itertools.product((0, 1), repeat=2):
        expected = torch.result_type(torchs(left, axes[0]), torchs(right, axes[1]))
        assert result_dtype(ours(left, axes[0]), ours(right, axes[1])) == DTYPES[str(expected).removeprefix("torch.")]


@pytest.mark.parametrize(("name", "number"), list(itertools.product(NAMES, NUMBERS)))
def test_a_number_promotes_as_in_torch(name: str, number: Number) -> None:
    for ndim in (0, 1):
        expected = DTYPES[str(torch.result_type(torchs(name, ndim), number)).removeprefix("torch.")]
        assert result_dtype(ours(name, ndim), number) == expected
        assert result_dtype(number, ours(name, ndim)) == expected


def test_float64_is_computed_in_float32() -> None:
    assert DTYPES["float64"] == mx.float32
