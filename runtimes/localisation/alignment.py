"""Which value of a graph is which value of its source, by what they hold: names mean nothing in a graph of others.

A value of the graph is one of the source's when all numbers that are kept of it (see digest) agree within rounding, in
the same order or with axes turned. A few statistics of all its numbers, which no turning changes and no rounding moves
further than it moves a number, leave few pairs to be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from runtimes.localisation.digest import statistics, taken
from runtimes.localisation.values import LARGEST_INDEX, Array, Recorded, Source, difference

MOST_AXES = 4


@dataclass(frozen=True, slots=True)
class Near:
    """The value of a graph that is nearest to one of the source's."""

    name: str
    max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """What was found of each value of the source."""

    right: tuple[Near | None, ...]  # the value of the graph that it is
    near: tuple[Near | None, ...]  # where there is none: the nearest of those that are no value of the source
    telling: tuple[bool, ...]  # whether it could be mistaken for nothing else
    names: Mapping[str, tuple[int, ...]]  # of the graph's values, the numbers of those of the source that they are
    floats: frozenset[str]  # the graph's values that hold fractions
    integers: Mapping[str, Array]  # those that hold whole numbers, as far as they are few


def align(source: Source, values: Iterable[tuple[str, Array]]) -> Alignment:
    """The alignment of a source with the values of a graph, by name, each of which is looked at once and let go.

    A value that the source answers is found by its own name only, where the graph has that.
    """
    recorded = source.values
    found = _Aligning(recorded)
    answered: dict[int, tuple[str, float]] = {}
    for name, array in values:
        found.add(name, array)
        if name in source.results:
            number = source.results[name]
            fits = array.size == recorded[number].held.size
            answered[number] = (name, _turned_difference(recorded[number], array) if fits else float("inf"))
    for number, (name, max_abs) in answered.items():
        is_right = max_abs <= recorded[number].allowed
        found.right[number] = Near(name, max_abs) if is_right else None
        found.near[number] = None if is_right else Near(name, max_abs)
    return Alignment(
        right=tuple(found.right),
        near=tuple(found.near),
        telling=tuple(value.held.telling for value in recorded),
        names=found.names,
        floats=frozenset(found.floats),
        integers=found.integers,
    )


class _Aligning:
    """The values of a source, to which those of a graph are held one by one."""

    def __init__(self, recorded: tuple[Recorded, ...]) -> None:
        self.recorded = recorded
        self.right: list[Near | None] = [None] * len(recorded)
        self.near: list[Near | None] = [None] * len(recorded)
        self.names: dict[str, tuple[int, ...]] = {}
        self.floats: set[str] = set()
        self.integers: dict[str, Array] = {}
        numbers: dict[int, list[int]] = defaultdict(list)
        for number, value in enumerate(recorded):
            numbers[value.held.size].append(number)
        self.by_size = {
            size: (np.array(each), np.stack([recorded[number].held.statistics for number in each]))
            for size, each in numbers.items()
            if size
        }

    def add(self, name: str, array: Array) -> None:
        if array.dtype.kind in "iu" and array.size <= LARGEST_INDEX:
            self.integers[name] = array
        if array.dtype.kind != "f":
            return
        self.floats.add(name)
        if array.size not in self.by_size:
            return
        numbers, known = self.by_size[array.size]
        with np.errstate(invalid="ignore"):
            least = np.abs(known - statistics(array)).max(axis=1)
        same = [
            number
            for number, bound in zip(numbers.tolist(), least.tolist(), strict=True)
            if self._is(number, array, bound)
        ]
        self.names[name] = tuple(same)
        for number in same:
            self._keep(self.right, number, name, _turned_difference(self.recorded[number], array))
        if not same:
            self._near(name, array, numbers[np.argsort(least, kind="stable")], np.sort(least))

    def _is(self, number: int, array: Array, bound: float) -> bool:
        value = self.recorded[number]
        return bound <= value.allowed and _turned_difference(value, array) <= value.allowed

    def _near(self, name: str, array: Array, numbers: npt.NDArray[np.int64], least: npt.NDArray[np.float64]) -> None:
        """Keeps the value for each of the source's that it is nearest to; what can't be nearer is not compared."""
        for number, bound in zip(numbers.tolist(), least.tolist(), strict=True):
            best = self.near[number]
            if self.right[number] is None and (best is None or bound < best.max_abs):
                held = self.recorded[number].held
                self._keep(self.near, number, name, difference(held.numbers, taken(array, held.places)))

    @staticmethod
    def _keep(into: list[Near | None], number: int, name: str, max_abs: float) -> None:
        best = into[number]
        if best is None or max_abs < best.max_abs:
            into[number] = Near(name, max_abs)


def _turned_difference(value: Recorded, array: Array) -> float:
    """The least difference over the orders of the array's axes."""
    held, at = value.held, value.held.places
    found = difference(held.numbers, taken(array, at))
    squeezed = array.squeeze()
    if found <= value.allowed or not 2 <= squeezed.ndim <= MOST_AXES:
        return found
    turns = permutations(range(squeezed.ndim))
    return min(difference(held.numbers, taken(squeezed.transpose(axes), at)) for axes in turns)


def difference_along(one: Array, other: Array, axis: int) -> npt.NDArray[np.float64]:
    """The largest |difference| at each place along an axis."""
    delta = np.abs(one.astype(np.float64) - other.astype(np.float64))
    found: npt.NDArray[np.float64] = delta.max(axis=tuple(each for each in range(delta.ndim) if each != axis))
    return found


def tolerances(scales: Iterable[float], noises: Iterable[float], factor: float, ulps: int) -> tuple[float, ...]:
    """Of each value the largest difference that is rounding: as the gate's of the outputs, for each by itself.

    `scales`: the largest number of each (see scale_of); `noises`: how much of it is rounding in the source itself.
    """
    return tuple(
        max(factor * noise, ulps * float(np.spacing(np.float32(scale))))
        for scale, noise in zip(scales, noises, strict=True)
    )
