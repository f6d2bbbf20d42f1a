"""How often the rows of each class stand in an epoch, so that compiler and runtimes count the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Draw = Literal["every", "oversample", "undersample"]
"""every: each row once. Else as many rows of each class: as the largest has, or as the smallest."""


def rows_of_each(draw: Draw, counts: Iterable[int]) -> int:
    """How many rows of each class an epoch has, from how many there are; classes without rows are none."""
    there = [count for count in counts if count]
    return (min if draw == "undersample" else max)(there, default=0)


def rows_of_epoch(draw: Draw, counts: Iterable[int]) -> int:
    """How many rows an epoch has."""
    there = [count for count in counts if count]
    return sum(there) if draw == "every" else rows_of_each(draw, there) * len(there)
