from __future__ import annotations

import numpy as np

from runtimes.randomness import bits, normal, number, order, uniform


def test_numbers_are_functions_of_their_key() -> None:
    assert uniform(5, 1, "a").tolist() == uniform(5, 1, "a").tolist()
    assert len({number(seed, name) for seed in range(10) for name in ("a", "b")}) == 20
    assert uniform(3, 7).tolist() == uniform(5, 7).tolist()[:3]


def test_the_first_numbers_never_change() -> None:
    assert bits(2, 0, "weight").tolist() == [73725076040395810, 13635172406681455872]


def test_an_order_has_every_number_once() -> None:
    assert sorted(order(1_000, 3).tolist()) == list(range(1_000))


def test_uniform_and_normal_have_their_moments() -> None:
    # 200,000 draws: five standard errors of a mean are 5 * 0.29 / 447 and 5 / 447.
    assert abs(uniform(200_000, 1).mean() - 0.5) < 0.0033
    drawn = normal(200_000, 1)
    assert abs(drawn.mean()) < 0.012
    assert abs(drawn.std() - 1) < 0.012
    assert abs(np.mean(drawn**4) - 3) < 0.12
    assert np.isfinite(drawn).all()
