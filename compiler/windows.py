"""Rows that are longer than a model reads: the windows in which some tasks read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Windowed(Protocol):
    """A task that reads long rows in windows, each of them a row to the model."""

    def window_step(self, max_length: int) -> int:
        """Tokens from the start of a window to that of the next."""
        ...


def num_windows(length: int, max_length: int, step: int) -> int:
    """How many windows a row of so many tokens has: each begins `step` tokens after the one before."""
    return 1 + -(-max(0, length - max_length) // step)


def num_windows_of(lengths: Iterable[int], max_length: int, step: int) -> int:
    """How many windows some rows have together. `lengths`: how many rows have 0, 1, 2, ... tokens."""
    return sum(count * num_windows(length, max_length, step) for length, count in enumerate(lengths))
