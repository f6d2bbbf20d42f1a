"""What a cell of the conformance table measures, what it may be, and how two results differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Figures = dict[str, float]
Values = Mapping[str, np.ndarray[Any, Any]]
Status = Literal["green", "red", "unrun"]

# The most that a figure may be. All are relative but for those whose comment says otherwise.
LIMITS: Mapping[str, float] = {
    "unlowered": 0,  # operations without a lowering
    "loss": 1e-4,
    # See gradient_difference. The head that marks spans has a bias whose true gradient is zero: torch's float32 is 1e-4
    # away from its own float64 there.
    "gradients": 2e-4,
    "steps": 1e-4,  # the worst loss of 20 optimizer steps
    "norms": 2e-3,  # the worst norm of their gradients, after as many roundings
    "evaluation": 1e-4,  # the loss in eval mode after these steps
    "buffers": 1e-4,
    "saved": 1e-5,  # what the saved model answers on either engine, beside the engine that trained it
    "parameters": 0,  # trained ones more or fewer
    "learnt": 0.95,  # the last loss, in first losses: who learns nothing is equal to anybody
    "gate": 1,  # the largest difference of outputs, in those that the gate allows
}
_FLOOR = 1e-3


class UnrunError(Exception):
    """A cell that this machine can't run, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A place in a table. `measure` is given an empty folder."""

    table: str
    names: Mapping[str, str]
    measure: Callable[[Path], Figures]

    def __str__(self) -> str:
        return f"{self.table}: {', '.join(self.names.values())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A measured cell; the reason why it is not green."""

    status: Status
    figures: Figures
    reason: str = ""


def result_of(cell: Cell, folder: Path) -> Result:
    """The result of a cell: red where a figure is above its limit, and where measuring it fails."""
    try:
        figures = cell.measure(folder)
    except UnrunError as error:
        return Result(status="unrun", figures={}, reason=str(error))
    except Exception as error:  # noqa: BLE001  (whatever a cell raises is what the table is to show)
        first = next(iter(str(error).strip().splitlines()), "")
        return Result(status="red", figures={}, reason=f"{type(error).__name__}: {first}")
    broken = over_limits(figures)
    return Result(status="red" if broken else "green", figures=figures, reason="; ".join(broken))


def over_limits(figures: Mapping[str, float]) -> list[str]:
    """The figures above their limits, or that are no numbers."""
    limited = [(name, value, LIMITS[name]) for name, value in figures.items() if name in LIMITS]
    return [f"{name} {value:.2g}, allowed {limit:g}" for name, value, limit in limited if not value <= limit]


def difference(found: Any, expected: Any) -> float:
    """The largest difference, in the largest of the expected values; as it is where these are all zero."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def worst_difference(found: Any, expected: Any) -> float:
    """The largest difference, each in the value that was expected there."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((np.abs(found - expected) / np.abs(expected)).max())


def gradient_difference(found: Values, expected: Values) -> float:
    """The worst of all tensors: the largest difference, in the tensor's largest element plus a thousandth of all's.

    The floor is for key-projection biases: their true gradient is zero, and what is there is rounding.
    """
    assert found.keys() == expected.keys()
    largest = max(float(np.abs(value).max()) for value in expected.values())
    return max(
        float(np.abs(found[name] - value).max()) / (float(np.abs(value).max()) + _FLOOR * largest)
        for name, value in expected.items()
    )
