"""What a source computes on its way, and the graph that should compute the same: names and arrays, no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from runtimes.localisation.digest import Digest

Array = npt.NDArray[Any]
HUGE = 1e30
"""Beyond it a number stands for infinity: masks add the least number of their dtype, whichever that is."""
LARGEST_INDEX = 4096
"""Whole numbers are kept as far as they are so few: they say which rows of a table are read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """A value of the source, in the order in which they were computed."""

    layer: str  # the module that computed it; "" for the model itself
    operation: str  # softmax(dim=-1)
    held: Digest  # what is kept of it, in float32; all of it where the model answers it
    needs: tuple[int, ...] = ()  # the numbers of the values that it was computed from
    parameters: tuple[str, ...] = ()  # that it was computed with, by their names
    indices: tuple[Array, ...] = ()  # whole numbers that it was computed with: rows of an embedding
    allowed: float = 0.0  # the largest |difference| that is rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One pass of the source."""

    values: tuple[Recorded, ...]
    modules: tuple[tuple[str, int], ...]  # each module as it ended, and the number of the value that it gave
    results: Mapping[str, int]  # numbers of what the model answers, by name
    parameters: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """An operator of a graph."""

    op_type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: str = ""  # axis=-1
    file: str = ""  # where the graph is, when a model has several


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The operators of a graph in an order in which they can run."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Callable[[], Array]]
    """What each constant holds."""


def finite(array: Array) -> npt.NDArray[np.float64]:
    """The values of an array that are numbers and stand for themselves."""
    flat = array.ravel().astype(np.float64)
    found: npt.NDArray[np.float64] = flat[np.abs(flat) < HUGE]
    return found


def scale_of(array: Array) -> float:
    """The largest of these."""
    return float(np.abs(finite(array)).max(initial=0.0))


def is_telling(array: Array) -> bool:
    """Whether a value can be told from another: a mask of zeros and infinities, or a constant, is found anywhere."""
    values = finite(array)
    if not values.size:
        return False
    return bool(values.min() != values.max()) or (array.size == 1 and float(values[0]) % 1 != 0)


def difference(one: Array, other: Array) -> float:
    """The largest |difference| of two arrays of one size, in their flat order; infinite where one is not a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        delta = np.clip(one.ravel().astype(np.float64), -HUGE, HUGE) - np.clip(
            other.ravel().astype(np.float64), -HUGE, HUGE
        )
        found = float(np.abs(delta).max(initial=0.0))
    return found if np.isfinite(found) else float("inf")
