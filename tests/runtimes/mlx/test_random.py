"""Dropout by its law: how much is dropped, what is scaled, and that no mask comes twice."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from runtimes.mlx.graph import Graph, Input
from runtimes.mlx.lower import lower, value_and_grad
from runtimes.mlx.passes import simplify
from runtimes.mlx.trace import trace

WIDTH = 400


class Twice(nn.Module):
    """Two dropouts of one input."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(share)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"first": self.dropout(x), "second": self.dropout(x)}


class Attention(nn.Module):
    """Attention that looks at all keys alike; values are the unit matrix, so that the result is the shares."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        return {"shares": functional.scaled_dot_product_attention(q, k, v, dropout_p=0.25 if self.training else 0.0)}


def dropouts(share: float) -> Graph:
    x = Input(dtype="float32", axes=("batch", WIDTH))
    return simplify(trace(Twice(share).train(), {"x": x}))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_dropped_and_the_rest_is_scaled(share: float) -> None:
    found, _ = lower(dropouts(share))({}, {}, {"x": mx.ones((WIDTH, WIDTH))}, mx.random.key(0))
    for mask in found.values():
        values = np.unique(np.array(mask))
        np.testing.assert_allclose(values, [0.0, 1 / (1 - share)], rtol=1e-6)
        # 160,000 draws: five standard errors of the share are at most 5 * 0.5 / 400.
        assert np.mean(np.array(mask) == 0) == pytest.approx(share, abs=0.00625)


def test_nodes_and_steps_draw_masks_of_their_own_and_a_key_draws_the_same_again() -> None:
    run = mx.compile(lower(dropouts(0.5)))
    key, x = mx.random.key(7), mx.ones((3, WIDTH))
    masks = []
    for step in (0, 1, 0):
        found, _ = run({}, {}, {"x": x}, mx.random.split(key, 2)[step])
        masks.append({name: np.array(value) for name, value in found.items()})
    assert not np.array_equal(masks[0]["first"], masks[0]["second"])
    assert not np.array_equal(masks[0]["first"], masks[1]["first"])
    assert all(np.array_equal(masks[0][name], masks[2][name]) for name in masks[0])


def test_the_gradient_passes_where_the_mask_keeps() -> None:
    run = lower(dropouts(0.5))

    def first(x: mx.array) -> tuple[mx.array, mx.array]:
        outputs, _ = run({}, {}, {"x": x}, mx.random.key(1))
        return mx.sum(outputs["first"]), outputs["first"]

    (_, kept), gradient = mx.value_and_grad(first)(mx.ones((3, WIDTH)))
    assert mx.array_equal(kept, gradient)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing(share: float) -> None:
    found, _ = lower(dropouts(share))({}, {}, {"x": mx.ones((3, WIDTH))}, mx.random.key(0))
    assert mx.array_equal(found["first"], mx.full((3, WIDTH), 1 - share))


def test_evaluation_draws_nothing_and_needs_no_key() -> None:
    x = Input(dtype="float32", axes=("batch", WIDTH))
    graph = simplify(trace(Twice(0.5).eval(), {"x": x}))
    found, _ = lower(graph)({}, {}, {"x": mx.ones((3, WIDTH))}, None)
    assert mx.array_equal(found["first"], mx.ones((3, WIDTH)))


def test_attention_drops_whole_shares_of_its_own() -> None:
    axes = ("batch", 2, "length", 8)
    inputs = {name: Input(dtype="float32", axes=axes) for name in "qk"}
    graph = simplify(
        trace(Attention().train(), {**inputs, "v": Input(dtype="float32", axes=("batch", 2, "length", 64))})
    )
    values = mx.broadcast_to(mx.eye(64), (16, 2, 64, 64))
    run = mx.compile(lower(graph))
    masks = []
    for step in range(2):
        zeros = mx.zeros((16, 2, 64, 8))
        found, _ = run({}, {}, {"q": zeros, "k": zeros, "v": values}, mx.random.key(step))
        masks.append(np.array(found["shares"]))
    np.testing.assert_allclose(np.unique(masks[0]), [0.0, 1 / 64 / 0.75], rtol=1e-6)
    # 131,072 draws: five standard errors are 5 * 0.433 / 362.
    assert np.mean(masks[0] == 0) == pytest.approx(0.25, abs=0.006)
    assert not np.array_equal(masks[0], masks[1])


def test_a_compiled_training_step_draws_another_mask_each_time() -> None:
    class Objective(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, 1, bias=False)
            self.dropout = nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.linear(self.dropout(x)).sum()
            return found

    graph = simplify(trace(Objective().train(), {"x": Input(dtype="float32", axes=("batch", WIDTH))}))
    step = mx.compile(value_and_grad(lower(graph), lambda outputs: outputs["0"]))
    trained, x = {"linear.weight": mx.ones((1, WIDTH))}, {"x": mx.ones((2, WIDTH))}
    gradients = [np.array(step(trained, {}, {}, x, mx.random.key(at))[1]["linear.weight"]) for at in range(3)]
    assert len({gradient.tobytes() for gradient in gradients}) == 3
