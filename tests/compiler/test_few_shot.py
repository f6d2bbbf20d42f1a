from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.facts import SplitFacts
from compiler.few_shot import MOST, auto_few_shot, num_fitting, share
from tests.handmade import split_facts


def train(*lengths: int) -> SplitFacts:
    """Train rows of so many tokens each."""
    histogram = tuple(lengths.count(length) for length in range(max(lengths, default=0) + 1))
    return replace(split_facts("train", {"any": len(lengths)}), lengths=histogram)


@given(room=st.integers(1, 10_000), max_length=st.integers(2, 512), count=st.integers(1, 64))
def test_as_many_solved_rows_and_a_prompt_fit_where_none_is_longer_than_its_share(
    room: int, max_length: int, count: int
) -> None:
    most = share(room, max_length, count)
    assert (count + 1) * most <= room and most <= max_length
    assert most == max_length or (count + 1) * (most + 1) > room


def test_without_a_limit_a_solved_row_is_as_long_as_those_that_are_learnt_from() -> None:
    assert share(None, 256, 3) == 256


def test_rows_that_fit_are_counted_by_their_tokens() -> None:
    assert [num_fitting(train(5, 5, 9), most) for most in (4, 5, 8, 9, 99)] == [0, 2, 2, 3, 3]
    assert num_fitting(replace(train(5, 5, 9), lengths=None), 4) == 3


# Half of the rows have 10 tokens or fewer: three and a prompt take 40, two 30, one 20.
@pytest.mark.parametrize(
    ("room", "count"), [(None, 3), (4000, 3), (40, 3), (39, 2), (30, 2), (29, 1), (20, 1), (19, 0)]
)
def test_auto_is_as_many_as_half_of_the_train_rows_are_short_enough_for(room: int | None, count: int) -> None:
    found = auto_few_shot(train(10, 10, 50, 50), room, 64)
    assert found.value == count
    assert (f"{count} and a prompt fit" if count else "most train rows have more") in found.reason


def test_auto_is_no_more_than_there_are_train_rows() -> None:
    assert auto_few_shot(train(10, 10), None, 64).value == 2 < MOST
