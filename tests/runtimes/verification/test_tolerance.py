import numpy as np
import pytest

from runtimes.verification.tolerance import Noise, tolerance


def noise(*, max_abs: float, scale: float) -> Noise:
    return Noise(max_abs=max_abs, scale=scale, rows=64)


def test_the_tolerance_is_eight_times_the_noise() -> None:
    assert tolerance(noise(max_abs=1e-5, scale=1.0)) == 8e-5


def test_the_factor_is_the_callers() -> None:
    assert tolerance(noise(max_abs=1e-5, scale=1.0), factor=2) == 2e-5


@pytest.mark.parametrize("exponent", [-3, 0, 5])
def test_without_noise_it_is_32_ulp_of_the_scale(exponent: int) -> None:
    # float32 has 24 significant bits: from 2^e up to 2^(e+1) its spacing is 2^(e-23), and 32 of them are 2^(e-18)
    for scale in (2.0**exponent, 1.5 * 2.0**exponent):
        assert tolerance(noise(max_abs=0.0, scale=scale)) == 2.0 ** (exponent - 18)


def test_the_larger_of_noise_and_floor_counts() -> None:
    floor = 2.0**-18
    assert tolerance(noise(max_abs=floor / 16, scale=1.0)) == floor
    assert tolerance(noise(max_abs=floor / 4, scale=1.0)) == 2 * floor


def test_a_model_that_gives_zeros_still_has_a_positive_tolerance() -> None:
    assert tolerance(noise(max_abs=0.0, scale=0.0)) == pytest.approx(32 * np.finfo(np.float32).smallest_subnormal)
