"""Several targets: what differs where a task answers with several numbers, each from a column of its own."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from compiler.diagnostics import Diagnostic, counted
from compiler.tasks.interface import Kind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.recipe import Recipe
    from compiler.tasks.interface import Targets

Numbers = float | tuple[float, ...]
"""A number for all targets, or one for each."""


class NumberRows:
    """The numbers of rows, each row found again by its own number: in the order in which they came."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.numbers: array[float] = array("d")

    def add(self, numbers: Sequence[float]) -> float:
        """The number of a row."""
        self.numbers.extend(numbers)
        return float(len(self.numbers) // self.count - 1)

    def of(self, targets: Targets) -> npt.NDArray[np.float64]:
        """[N, C] the numbers of some rows."""
        import numpy as np

        numbers_RC = np.array(self.numbers, np.float64).reshape(-1, self.count)
        numbers_NC: npt.NDArray[np.float64] = numbers_RC[targets.astype(np.int64)]
        return numbers_NC


def roles(columns: Mapping[str, Kind], answer: str, targets: Sequence[str]) -> dict[str, Kind]:
    """The roles of a task's columns, in which each target stands for itself instead of the one answer."""
    inputs = {role: kind for role, kind in columns.items() if role != answer}
    return {**inputs, **dict.fromkeys(targets, columns[answer])}


def check_targets(recipe: Recipe, answer: str, inputs: Sequence[str], targets: Sequence[str]) -> Iterator[Diagnostic]:
    """Each target has a name of its own, and nothing else names a column of numbers."""
    for place, name in enumerate(targets):
        pointer = f"/task/targets/{place}"
        if name in targets[:place]:
            message = f'the target "{name}" is listed twice, first as item {targets.index(name)}'
            yield recipe.finding("R203", pointer, message, "remove one")
        if name in inputs:
            message = f'"{name}" is what the task calls what it reads, so no target can have this name'
            yield recipe.finding("R216", pointer, message, "rename the column in the data")
    pointer = f"/dataset/columns/{answer}"
    if targets and recipe.wrote(pointer) is not None:
        message = f'nothing reads "{answer}" with targets: each of them is a column'
        yield recipe.finding("R202", pointer, message, "remove one of the two", key=True)


def check_counts(recipe: Recipe, targets: Sequence[str], written: Mapping[str, Numbers | str]) -> Iterator[Diagnostic]:
    """A list of numbers has one for each target. `written`: the values of keys of the task."""
    for key, numbers in written.items():
        if not isinstance(numbers, tuple) or (targets and len(numbers) == len(targets)):
            continue
        there = f'"targets" names {counted(len(targets), "column")}' if targets else "the task has one target"
        message = f'"{key}" is a list of {counted(len(numbers), "number")}, and {there}'
        hint = f"one for each of {', '.join(targets)}; or a single one for all" if targets else "write a number"
        yield recipe.finding("R207", f"/task/{key}", message, hint)
