"""Which rows share a sequence: functions of their lengths alone, so that compiler and runtimes count the same."""

# N = rows

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Packing = Literal["none", "fill", "whole"]
"""none: a row is a sequence. fill: rows are cut where a sequence is full. whole: as many rows as fit, none is cut."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens `start` to `stop` of a row."""

    row: int
    start: int
    stop: int


def num_sequences(packing: Packing, lengths: Sequence[int], capacity: int) -> int:
    """How many sequences rows of these lengths make; rows longer than the capacity count as cut to it, but for fill."""
    match packing:
        case "none":
            return len(lengths)
        case "fill":
            return -(-sum(lengths) // capacity)
        case "whole":
            return sum(1 for _ in pack(packing, lengths, capacity))


def pack(packing: Packing, lengths: Sequence[int], capacity: int) -> Iterator[tuple[Piece, ...]]:
    """The pieces of each sequence, every token of every row in one of them (whole: of a row cut to the capacity)."""
    match packing:
        case "none":
            yield from ((Piece(row, 0, length),) for row, length in enumerate(lengths))
        case "fill":
            yield from _filled(lengths, capacity)
        case "whole":
            cut = [min(length, capacity) for length in lengths]
            yield from (tuple(Piece(row, 0, cut[row]) for row in rows) for rows in _fitted(cut, capacity))


def _filled(lengths: Sequence[int], capacity: int) -> Iterator[tuple[Piece, ...]]:
    """Rows one after another, cut where a sequence is full."""
    pieces: list[Piece] = []
    room = capacity
    for row, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            pieces.append(Piece(row, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield tuple(pieces)
                pieces, room = [], capacity
    if pieces:
        yield tuple(pieces)


def _fitted(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of each sequence: longest first, each into the fullest sequence that has room (best fit decreasing)."""
    found: list[list[int]] = []
    rooms: list[int] = []  # those that some sequence has, ascending
    by_room: dict[int, list[int]] = {}  # room -> the sequences that have it
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(rooms, lengths[row])
        if place < len(rooms):
            room = rooms[place]
            number = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        else:
            room, number = capacity, len(found)
            found.append([])
        found[number].append(row)
        left = room - lengths[row]
        if left not in by_room:
            by_room[left] = []
            insort(rooms, left)
        by_room[left].append(number)
    return found
