from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the torch extra")
pytest.importorskip("mlx.core", reason="needs the mlx extra")

import numpy as np

from runtimes.mlx.lower import unlowered
from tests.runtimes.mlx.architectures import ARCHITECTURES, sample
from tests.runtimes.mlx.running import assert_equal_gradients, graph_of, mlx_step, torch_step


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_operation_has_a_lowering(name: str) -> None:
    assert unlowered(graph_of(name)) == ()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(("batch", "length"), [(4, 12), (1, 9)])
def test_loss_and_gradients_equal_torchs_at_sizes_that_were_not_traced(name: str, batch: int, length: int) -> None:
    objective = ARCHITECTURES[name].build()
    rows = sample(ARCHITECTURES[name].objective, batch, length)
    expected, expected_gradients = torch_step(objective, rows)
    objective = ARCHITECTURES[name].build()  # its buffers as they were before torch's step
    found, _, gradients = mlx_step(graph_of(name), objective.model, rows)
    assert found["loss_sum"] == pytest.approx(expected["loss_sum"], rel=1e-4)
    assert found["count"] == expected["count"]
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    assert_equal_gradients(gradients, expected_gradients)
