"""How many windows a row has, counted by its length alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compiler.windows import num_windows, num_windows_of


def test_a_row_that_fits_is_one_window() -> None:
    assert [num_windows(length, 10, 4) for length in (0, 9, 10)] == [1, 1, 1]


def test_each_step_beyond_is_one_more() -> None:
    assert [num_windows(length, 10, 4) for length in (11, 14, 15, 18, 19)] == [2, 2, 3, 3, 4]


@given(st.integers(0, 500), st.integers(2, 60), st.integers(1, 30))
def test_the_last_window_is_the_first_that_reaches_the_end(length: int, most: int, step: int) -> None:
    count = num_windows(length, most, step)
    assert (count - 1) * step + most >= length
    assert count == 1 or (count - 2) * step + most < length


def test_windows_are_counted_over_all_rows() -> None:
    assert num_windows_of([0] * 10 + [3, 2, 0, 0, 0, 1], 10, 4) == 3 + 2 * 2 + 3
