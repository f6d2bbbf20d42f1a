"""Whose turn it is, and how the tasks' losses count."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.plan import TaskTurns
from runtimes.rows.turns import Turns, Weighing

STEPS = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 30), min_size=1)


@given(STEPS, st.integers(0, 2**32 - 1), st.booleans())
def test_each_task_has_its_turns_in_each_epoch_and_counts_them_on(
    steps: dict[str, int], seed: int, rotates: bool
) -> None:
    turns = Turns(steps, rotates=rotates, seed=seed)
    had: Counter[str] = Counter()
    for epoch in range(3):
        for step in range(turns.per_epoch):
            turn = turns.of(epoch * turns.per_epoch + step)
            assert turn.number == had[turn.name]
            had[turn.name] += 1
        assert had == {name: (epoch + 1) * count for name, count in steps.items()}


@given(STEPS, st.integers(0, 500))
def test_a_step_s_turn_needs_no_step_before_it(steps: dict[str, int], step: int) -> None:
    walked = Turns(steps, rotates=False, seed=7)
    [*_, last] = [walked.of(number) for number in range(step + 1)]
    assert Turns(steps, rotates=False, seed=7).of(step) == last


def test_tasks_that_rotate_take_turns() -> None:
    turns = Turns({"a": 3, "b": 3, "c": 3}, rotates=True, seed=0)
    assert "".join(turns.of(step).name for step in range(18)) == "abc" * 6


def test_an_order_that_is_drawn_differs_from_epoch_to_epoch_and_by_seed() -> None:
    def order(seed: int, epoch: int) -> str:
        turns = Turns({"a": 10, "b": 10}, rotates=False, seed=seed)
        return "".join(turns.of(epoch * 20 + step).name for step in range(20))

    assert len({order(0, 0), order(0, 1), order(1, 0)}) == 3


# --- weights


def weighing(weight: float = 1.0, share: float = 1.0, rate: float = 0.0) -> Weighing:
    return Weighing({"a": TaskTurns(steps=1, weight=weight, share=share)}, rate)


def test_a_fixed_weight_is_the_factor() -> None:
    assert weighing(weight=0.25).factor("a", 3.0) == 0.25


@given(st.floats(-4, 4), st.floats(0.01, 10), st.floats(0.1, 3), st.sampled_from([0.5, 1.0]))
def test_a_log_variance_moves_against_the_slope_of_the_objective(
    log_variance: float, loss: float, weight: float, share: float
) -> None:
    """The slope by differences: weight * (share * exp(-s) * loss + s / 2), central, error of order step squared."""
    rate, step = 0.01, 1e-4

    def objective(s: float) -> float:
        return weighing(weight, share, rate).factor("a", s) * loss + weight * s / 2

    slope = (objective(log_variance + step) - objective(log_variance - step)) / (2 * step)
    moved = weighing(weight, share, rate).moved("a", log_variance, loss)
    assert (log_variance - moved) / rate == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_log_variance_comes_to_rest_at_the_logarithm_of_twice_the_likelihood_s_loss(share: float) -> None:
    """1/2 = share * exp(-s) * L, so s = log(2 * share * L): of squared errors log L, of their variance."""
    found, weigh = 0.0, weighing(share=share, rate=0.05)
    for _ in range(2000):
        found = weigh.moved("a", found, 0.3)
    assert found == pytest.approx(math.log(2 * share * 0.3), abs=1e-9)
    assert weigh.factor("a", found) * 0.3 == pytest.approx(0.5)
