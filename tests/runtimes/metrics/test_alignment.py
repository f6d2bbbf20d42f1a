from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.metrics.alignment import common_length, edit_distance

sequences = st.text(alphabet="abc", max_size=90)  # over 64, so that a mask is more than one machine word


def by_table(one: str, other: str) -> tuple[int, int]:
    """Longest common subsequence and edit distance by the textbook's tables."""
    common, edits = [0] * (len(other) + 1), list(range(len(other) + 1))
    for row, left in enumerate(one, 1):
        before_common, before_edits = common, edits
        common, edits = [0], [row]
        for column, right in enumerate(other, 1):
            same = left == right
            longest = before_common[column - 1] + 1 if same else max(before_common[column], common[-1])
            least = min(before_edits[column - 1] + (not same), before_edits[column] + 1, edits[-1] + 1)
            common.append(longest)
            edits.append(least)
    return common[-1], edits[-1]


@given(sequences, sequences)
def test_bits_count_what_the_tables_count(one: str, other: str) -> None:
    assert (common_length(one, other), edit_distance(one, other)) == by_table(one, other)


@pytest.mark.parametrize(("one", "other", "distance"), [("kitten", "sitting", 3), ("intention", "execution", 5)])
def test_the_distance_of_known_words(one: str, other: str, distance: int) -> None:
    assert edit_distance(one, other) == edit_distance(other, one) == distance


@given(sequences, sequences, sequences)
def test_a_detour_is_never_shorter(one: str, other: str, third: str) -> None:
    assert edit_distance(one, other) <= edit_distance(one, third) + edit_distance(third, other)
