"""What is kept of a value, counted in bytes, and that it still shows what is wrong."""

# Axes: B = rows, H = numbers of a row

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from runtimes.localisation.alignment import align
from runtimes.localisation.digest import MOST_KEPT, digest, places, statistics
from runtimes.localisation.values import Array, Recorded, Source

B, H = 300, 1000
LARGE_BH = np.random.default_rng(0).normal(size=(B, H)).astype(np.float32)
BYTES = 4 * MOST_KEPT


def source(array: Array) -> Source:
    value = Recorded(layer="layer", operation="linear", held=digest(array), allowed=1e-5)
    return Source(values=(value,), modules=(("layer", 0),), results={}, parameters={})


def test_places_are_one_in_each_part_and_always_the_same() -> None:
    found = places(1_000_000, 1000)
    assert (found // 1000).tolist() == [*range(1000)]
    assert len({*(found % 1000)}) > 500  # not a pattern that a column could hide in
    assert np.array_equal(found, places(1_000_000, 1000))
    assert places(7, 1000).tolist() == [*range(7)]


def test_what_is_kept_does_not_grow_with_a_value() -> None:
    small, large, larger = (
        digest(np.tile(array, (times, 1))) for array, times in ((LARGE_BH[:3], 1), (LARGE_BH, 1), (LARGE_BH, 9))
    )
    assert np.array_equal(small.whole(), LARGE_BH[:3])
    assert large.numbers.nbytes == larger.numbers.nbytes == BYTES
    assert larger.size == 9 * B * H
    assert np.array_equal(large.numbers, LARGE_BH.ravel()[large.places])
    assert np.allclose(large.statistics, statistics(LARGE_BH.T), rtol=1e-12)


def test_a_large_value_is_found_with_its_axes_turned() -> None:
    assert align(source(LARGE_BH), [("t", np.ascontiguousarray(LARGE_BH.T))]).names["t"] == (0,)


@pytest.mark.parametrize("fault", [(slice(None), 700), (13, slice(None))], ids=["column", "row"])
def test_a_column_or_a_row_of_a_large_value_that_is_wrong_is_seen(fault: Any) -> None:
    wrong = LARGE_BH.copy()
    wrong[fault] += 0.01
    found = align(source(LARGE_BH), [("t", wrong)])
    assert found.names["t"] == ()
    [near] = found.near
    assert near is not None and near.max_abs == pytest.approx(0.01, rel=1e-3)


def test_a_pass_keeps_of_each_value_so_much_and_holds_no_tensor_that_the_model_lets_go() -> None:
    pytest.importorskip("torch", reason="needs the torch extra")
    import torch

    from runtimes.pytorch.traced import trace

    class Deep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(6))

        def forward(self, x: Any) -> dict[str, Any]:
            for layer in self.layers:
                x = torch.relu(layer(x))
            return {"logits": x}

    alive: list[int] = []

    def count(*_: object) -> None:
        tensors = (one for one in gc.get_objects() if issubclass(type(one), torch.Tensor))
        alive.append(sum(one.numel() == x.numel() for one in tensors))

    torch.manual_seed(0)
    model, x = Deep(), torch.randn(40_000, 8)
    model.layers[-1].register_forward_hook(count)
    found = trace(model, {"x": x}, {}, {"logits": "scores"})
    [answer] = found.results.values()
    kept = [value.held.numbers.nbytes for value in found.values]
    assert len(kept) == 12
    assert all(size == BYTES for number, size in enumerate(kept) if number != answer)
    assert kept[answer] == 4 * x.numel()
    assert len(alive) == 2  # a pass in float64, and one in float32
    assert max(alive) <= 5  # of twelve: two inputs of the passes, and a layer's own
