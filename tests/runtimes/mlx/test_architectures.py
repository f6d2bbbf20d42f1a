"""Architectures on MLX beside torch. Few train here, `make matrix` trains them all."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import mlx.core as mx
import numpy as np

from compiler.recipe import AdamW
from runtimes.mlx.lower import lower, value_and_grad
from runtimes.mlx.optimizers import update, zero_moments
from tests.conformance.architectures import loss_and_gradients, operations, twenty_steps
from tests.conformance.cells import over_limits
from tests.runtimes.mlx.architectures import ARCHITECTURES, sample
from tests.runtimes.mlx.running import arrays, buffers_of, graph_of, matrices_decay, parameters_of

SOME = ("bert", "llama", "t5", "resnet")  # of each objective one
TRAINED = ("bert", "resnet")  # an optimizer knows no architecture; resnet has buffers


@pytest.mark.parametrize("name", SOME)
def test_every_operation_is_lowered_with_torchs_loss_and_gradients_at_sizes_that_were_not_traced(name: str) -> None:
    assert over_limits({**operations(name), **loss_and_gradients(name)}) == []


@pytest.mark.parametrize("name", TRAINED)
def test_twenty_steps_of_adamw_with_schedule_clipping_and_accumulation_equal_torchs(name: str) -> None:
    assert over_limits(twenty_steps(name)) == []


@pytest.mark.parametrize("name", TRAINED)
def test_a_compiled_step_equals_the_plain_one(name: str) -> None:
    graph, model = graph_of(name), ARCHITECTURES[name].build().model
    optimizer, step_of = AdamW(), value_and_grad(lower(graph), lambda outputs: outputs["loss_sum"])

    def step(trained: Any, moments: Any, buffers: Any, inputs: Any, number: mx.array) -> Any:
        (outputs, after), gradients = step_of(trained, {}, buffers, inputs, mx.random.key(0))
        rate = mx.array(3e-3)
        groups = matrices_decay(trained, 0.01)
        moved = update(optimizer, trained, gradients, moments, groups=groups, step=number, learning_rate=rate)
        return outputs["loss_sum"], *moved, after

    trained, buffers = parameters_of(graph, model), buffers_of(graph, model)
    plain = compiled = (mx.array(0.0), trained, zero_moments(optimizer, trained), buffers)
    fused = mx.compile(step)
    for number in range(1, 4):
        rows = arrays(sample(ARCHITECTURES[name].objective, 4, 9, seed=number))
        plain = step(*plain[1:], rows, mx.array(number))
        compiled = fused(*compiled[1:], rows, mx.array(number))
        np.testing.assert_allclose(np.array(compiled[0]), np.array(plain[0]), rtol=1e-5)
    for key, value in plain[3].items():
        np.testing.assert_allclose(np.array(compiled[3][key]), np.array(value), rtol=1e-4, atol=1e-5)


def test_every_objective_is_here() -> None:
    objectives = {architecture.objective for architecture in ARCHITECTURES.values()}
    assert {ARCHITECTURES[name].objective for name in SOME} == objectives
