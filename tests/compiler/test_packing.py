"""Packing: laws of which rows share a sequence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.packing import Packing, Piece, num_sequences, pack

LENGTHS = st.lists(st.integers(0, 40), max_size=60)
CAPACITY = st.integers(1, 50)


@pytest.mark.parametrize("packing", ["none", "fill", "whole"])
@given(lengths=LENGTHS, capacity=CAPACITY)
def test_as_many_sequences_are_made_as_were_counted(packing: Packing, lengths: list[int], capacity: int) -> None:
    assert num_sequences(packing, lengths, capacity) == len(list(pack(packing, lengths, capacity)))


@pytest.mark.parametrize("packing", ["fill", "whole"])
@given(lengths=LENGTHS, capacity=CAPACITY)
def test_no_sequence_is_too_long(packing: Packing, lengths: list[int], capacity: int) -> None:
    for pieces in pack(packing, lengths, capacity):
        assert sum(piece.stop - piece.start for piece in pieces) <= capacity


@given(lengths=LENGTHS, capacity=CAPACITY)
def test_filling_puts_every_token_somewhere_once_and_leaves_room_in_the_last_sequence_alone(
    lengths: list[int], capacity: int
) -> None:
    sequences = list(pack("fill", lengths, capacity))
    found = [(piece.row, token) for pieces in sequences for piece in pieces for token in range(piece.start, piece.stop)]
    assert found == [(row, token) for row, length in enumerate(lengths) for token in range(length)]
    assert all(sum(p.stop - p.start for p in pieces) == capacity for pieces in sequences[:-1])


@given(lengths=LENGTHS, capacity=CAPACITY)
def test_whole_rows_are_cut_only_at_the_capacity_and_stand_once(lengths: list[int], capacity: int) -> None:
    pieces = [piece for sequence in pack("whole", lengths, capacity) for piece in sequence]
    assert sorted(piece.row for piece in pieces) == list(range(len(lengths)))
    assert all((piece.start, piece.stop) == (0, min(lengths[piece.row], capacity)) for piece in pieces)


@given(lengths=LENGTHS, capacity=CAPACITY)
def test_the_count_does_not_depend_on_the_order_of_rows(lengths: list[int], capacity: int) -> None:
    for packing in ("fill", "whole"):
        assert num_sequences(packing, lengths, capacity) == num_sequences(packing, lengths[::-1], capacity)


def test_best_fit_puts_a_row_where_the_least_room_is_left() -> None:
    assert list(pack("whole", [5, 7, 3, 4], 10)) == [
        (Piece(1, 0, 7), Piece(2, 0, 3)),
        (Piece(0, 0, 5), Piece(3, 0, 4)),
    ]


@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_at_most_one_sequence_is_half_empty(lengths: list[int]) -> None:
    """Two sequences at most half full would have shared one: a law of best fit."""
    fills = [sum(piece.stop for piece in pieces) for pieces in pack("whole", lengths, 50)]
    assert sum(fill <= 25 for fill in fills) <= 1
