"""What rounding leaves of an update, by closed forms."""

import numpy as np
import pytest
import torch

from runtimes.survival import Change, Floats, Left, bfloat16, float16, float32, survival


def change(before: list[float], after: list[float], name: str = "weight") -> Change:
    return Change(name=name, before=np.array(before, np.float32), after=np.array(after, np.float32))


def whole(name: str, values: Floats) -> Floats:
    """To whole numbers."""
    return np.rint(values)


def test_all_of_an_update_is_left_where_nothing_is_rounded() -> None:
    assert survival([change([1, 2], [1.25, 1.5])], {"fp32": float32}) == {"fp32": Left(share=1.0, error=0.0)}


def test_an_update_below_half_a_step_of_the_grid_is_lost() -> None:
    [left] = survival([change([1, 2, 3], [1.4, 1.6, 3.3])], {"whole": whole}).values()
    assert left == Left(share=0.0, error=0.0)
    assert left.lost


def test_a_step_of_the_grid_is_left_and_counts_by_its_size() -> None:
    # of d = (0.4, 1.0) remains r = (0, 1): the share is 1.0 / 1.16, the noise r - share d
    [left] = survival([change([1, 2], [1.4, 3.0])], {"whole": whole}).values()
    share = 1 / 1.16
    noise = np.array([0 - share * 0.4, 1 - share * 1.0])
    assert left.share == pytest.approx(share, rel=1e-6)
    assert left.error == pytest.approx(np.sqrt((noise**2 * np.array([0.4, 1.0]) ** 2).sum()) / 1.16, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_an_update_of_weights_off_the_grid_is_left_on_average(seed: int) -> None:
    random = np.random.default_rng(seed)
    before = random.uniform(-100, 100, 200_000).astype(np.float32)
    update = random.normal(0, 0.05, 200_000).astype(np.float32)
    [left] = survival([Change(name="", before=before, after=before + update)], {"whole": whole}).values()
    assert abs(left.share - 1.0) < 3.5 * left.error < 0.1
    assert not left.lost


def test_an_update_that_hides_in_the_noise_is_lost() -> None:
    random = np.random.default_rng(0)
    before = random.uniform(-100, 100, 1000).astype(np.float32)
    update = random.normal(0, 1e-3, 1000).astype(np.float32)  # of 1,000 weights about one crosses a border
    [left] = survival([Change(name="", before=before, after=before + update)], {"whole": whole}).values()
    assert left.lost


def test_weights_that_did_not_change_do_not_count() -> None:
    one, same = change([1], [2]), change([5, 5], [5, 5], "same")
    assert survival([one, same], {"fp32": float32}) == {"fp32": Left(share=1.0, error=0.0)}
    assert survival([same], {"fp32": float32}) == {}


def test_roundings_are_those_of_torch() -> None:
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(0, scale, 5000) for scale in (1e-30, 1e-3, 1.0, 1e4)]).astype(np.float32)
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0, 65519.0, 65520.0], np.float32)
    for found, dtype in ((bfloat16, torch.bfloat16), (float16, torch.float16)):
        both = np.concatenate([values, ties])
        np.testing.assert_array_equal(found("", both), torch.from_numpy(both).to(dtype).float().numpy())


def test_an_update_of_a_bfloat16_model_can_vanish_in_bfloat16() -> None:
    base = bfloat16("", np.random.default_rng(2).normal(0, 0.05, 10_000).astype(np.float32))
    small = Change(name="", before=base, after=base * np.float32(1.001))  # a step is at least 0.0039
    large = Change(name="", before=base, after=base * np.float32(1.05))
    assert survival([small], {"bf16": bfloat16})["bf16"] == Left(share=0.0, error=0.0)
    assert survival([large], {"bf16": bfloat16})["bf16"].share == pytest.approx(1.0, abs=0.02)
