from __future__ import annotations

import math

import pytest

from compiler.plan import Schedule
from runtimes.schedule import learning_rate


def rates(shape, warmup: int, num_steps: int) -> list[float]:
    schedule = Schedule(shape=shape, warmup_steps=warmup, num_steps=num_steps)
    return [learning_rate(schedule, 2.0, step) for step in range(num_steps)]


def test_the_warm_up_rises_in_a_line_and_wastes_no_step() -> None:
    assert rates("constant", 3, 6) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_linear_falls_in_a_line_from_the_full_rate() -> None:
    assert rates("linear", 0, 4) == pytest.approx([2.0, 1.5, 1.0, 0.5])
    assert rates("linear", 1, 5) == pytest.approx([1.0, 2.0, 1.5, 1.0, 0.5])


def test_cosine_is_half_way_in_the_middle() -> None:
    found = rates("cosine", 0, 4)
    assert found == pytest.approx([2.0, 1.0 + math.sqrt(0.5), 1.0, 1.0 - math.sqrt(0.5)])


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 20])
def test_every_step_learns_and_none_exceeds_the_base_rate(shape, warmup: int) -> None:
    assert all(0 < rate <= 2.0 for rate in rates(shape, warmup, 20))
