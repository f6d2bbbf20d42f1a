"""What is kept of a value, so that memory does not grow with rows and tokens.

Of each value at most MOST_KEPT numbers stay, 128 KiB: all of a small one, of a large one those at places drawn evenly
over it, the same for all values of its size. A fault that touches one number in a thousand is there some thirty times;
where one slips through, what is computed from it is wrong too, and is named in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import numpy.typing as npt

from runtimes.localisation.values import HUGE, Array, is_telling, scale_of

MOST_KEPT = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Digest:
    """A value as it is kept."""

    shape: tuple[int, ...]
    numbers: Array  # at `places` of its flat order
    statistics: npt.NDArray[np.float64]  # of all its numbers
    scale: float  # see scale_of
    telling: bool  # see is_telling

    @property
    def size(self) -> int:
        """How many numbers it had."""
        return prod(self.shape)

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """Where its numbers stood."""
        return places(self.size, self.numbers.size)

    def whole(self) -> Array:
        """The value itself, where all of it was kept."""
        return self.numbers.reshape(self.shape)


def digest(array: Array, most: int = MOST_KEPT) -> Digest:
    """What is kept of a value: at most so many of its numbers."""
    return Digest(
        shape=array.shape,
        numbers=taken(array, places(array.size, most)),
        statistics=statistics(array),
        scale=scale_of(array),
        telling=is_telling(array),
    )


def places(size: int, most: int) -> npt.NDArray[np.int64]:
    """Places in an array of a size: all of them, or one drawn in each of `most` equal parts; always the same."""
    return np.arange(size) if size <= most else _drawn(size, most)


@lru_cache(maxsize=32)
def _drawn(size: int, most: int) -> npt.NDArray[np.int64]:
    bounds = np.arange(most + 1) * size // most
    found: npt.NDArray[np.int64] = np.random.default_rng(size).integers(bounds[:-1], bounds[1:])
    return found


def statistics(array: Array) -> npt.NDArray[np.float64]:
    """The least and the largest number, and of those that are no infinities three means: plain, of sizes, of squares.

    No turning of axes changes one of them, and no rounding moves one further than it moves a number.
    """
    flat = array.ravel().astype(np.float64)
    ends = np.clip([flat.min(), flat.max()], -HUGE, HUGE)
    np.copyto(flat, 0.0, where=~(np.abs(flat) < HUGE))
    return np.array([*ends, flat.mean(), np.abs(flat).mean(), np.sqrt(flat @ flat / flat.size)])


def taken(array: Array, at: npt.NDArray[np.int64]) -> Array:
    """The numbers of an array at places of its flat order, of which no copy is made."""
    if array.flags.c_contiguous:
        return array.reshape(-1)[at]
    found: Array = array[np.unravel_index(at, array.shape)]
    return found
