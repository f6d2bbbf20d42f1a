"""Layers that are computed again for their gradients: the same numbers, from less memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np

from runtimes.mlx.lower import recomputed
from runtimes.mlx.segments import split_at_layers
from tests.runtimes.mlx.architectures import ARCHITECTURES, sample
from tests.runtimes.mlx.running import graph_of, mlx_step


def layers_of(name: str) -> list[str]:
    return [segment.layer for segment in split_at_layers(graph_of(name)) if segment.layer]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", ["bert.encoder.layer.0", "bert.encoder.layer.1"]),
        ("llama", ["model.layers.0", "model.layers.1"]),
        ("albert", ["albert.encoder.albert_layer_groups.0"] * 2),
        ("t5", ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]),
    ],
)
def test_a_segment_is_one_run_of_a_layer(name: str, expected: list[str]) -> None:
    assert layers_of(name) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_segments_have_every_node_once_and_read_what_was_made_before(name: str) -> None:
    graph = graph_of(name)
    segments = split_at_layers(graph)
    nodes = list(itertools.chain.from_iterable(segment.nodes for segment in segments))
    assert sorted(node.name for node in nodes) == sorted(node.name for node in graph.nodes)
    there = {*graph.parameters, *graph.buffers, *graph.constants, *graph.inputs}
    for segment in segments:
        assert there.issuperset({*segment.differentiated, *segment.fixed})
        there |= set(segment.results)
    assert there.issuperset(graph.results)
    assert layers_of(name), "every one of these models has layers"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_has_the_same_loss_buffers_and_gradients(name: str) -> None:
    graph, model = graph_of(name), ARCHITECTURES[name].build().model
    rows = sample(ARCHITECTURES[name].objective, 3, 8, seed=0)
    whole, again = (mlx_step(graph, model, rows, recompute_layers=recompute) for recompute in (False, True))
    for expected, found in zip(whole, again, strict=True):
        assert expected.keys() == found.keys()
        largest = max((np.abs(value).max() for value in expected.values()), default=0.0)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-6 * largest, err_msg=key)


def test_gradients_are_those_of_the_first_arrays_and_what_flows_in_is_computed_with_twice() -> None:
    count = 0

    def layer(arrays: Sequence[mx.array]) -> list[mx.array]:
        nonlocal count
        x, at = arrays
        count += 1
        return [mx.sin(x)[at], mx.cos(x)]

    def loss(x: mx.array) -> mx.array:
        taken, rest = recomputed(layer, 1)([x, mx.array([0, 2])])
        return taken.sum() + 2 * rest.sum()

    x = mx.array([0.5, 1.0, 1.5])
    expected = np.cos(np.array(x)) * np.array([1, 0, 1]) - 2 * np.sin(np.array(x))
    np.testing.assert_allclose(np.array(mx.grad(loss)(x)), expected, rtol=1e-5)
    assert count == 2
