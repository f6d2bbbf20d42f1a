"""How much of what training changed is left after weights are rounded.

A small update can vanish: beside a weight of 0.05, bfloat16 has no number for a change below 0.0001, and a base that
lies on the grid of its few bits goes back to the same codes. Then the export answers as the untuned model did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Rounding = Callable[[str, Floats], Floats]
"""From a weight's name and values to the values that it has in another precision."""

LEAST, MOST = 0.5, 2.0
"""Of an update: below the one most is lost; beyond the other it is not the same update. Weights that lie on a grid and
are put on a grid anew have many ties, which the smallest update tips over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """The share of an update that rounding leaves, 1 for all of it; and the standard error that noise gives it."""

    share: float
    error: float

    @property
    def lost(self) -> bool:
        """Whether what is left is too little or too much, or can't be told from rounding noise."""
        least, most = self.share - 2 * self.error, self.share + 2 * self.error
        return least <= 0 or most < LEAST or least > MOST

    def __str__(self) -> str:
        return f"{self.share:.1%}" + (f" \u00b1 {self.error:.1%}" if self.error >= 5e-4 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A weight before and after the tuning, in float32."""

    name: str
    before: Floats
    after: Floats


def survival(changes: Iterable[Change], roundings: Mapping[str, Rounding]) -> dict[str, Left]:
    """What each rounding leaves of the update, by the rounding's name; empty where nothing was changed.

    With the update d = after - before and what is left of it, r = round(after) - round(before), the share is
    <r, d> / <d, d>: that part of r which points the way of d. Weights that lie off the grid cross to the next value of
    it by chance, the more often the larger d is: the share is 1 on average, and r - share * d is the noise, of which
    the error of the share follows.
    """
    sums = {name: np.zeros(3) for name in roundings}  # of r d, r^2 d^2, r d^3
    squares = np.zeros(2)  # of d^2, d^4
    for change in changes:
        d = change.after.astype(np.float64) - change.before
        if not d.any():
            continue
        squares += (d**2).sum(), (d**4).sum()
        for name, rounded in roundings.items():
            r = rounded(change.name, change.after).astype(np.float64) - rounded(change.name, change.before)
            sums[name] += (r * d).sum(), (r**2 * d**2).sum(), (r * d**3).sum()
    return {name: _left(found, squares) for name, found in sums.items()} if squares.any() else {}


def _left(sums: Floats, squares: Floats) -> Left:
    (rd, r2d2, rd3), (d2, d4) = sums.tolist(), squares.tolist()
    share = rd / d2
    return Left(share=share, error=float(np.sqrt(max(0.0, r2d2 - 2 * share * rd3 + share**2 * d4)) / d2))


def float32(name: str, values: Floats) -> Floats:
    """The values themselves."""
    return values


def bfloat16(name: str, values: Floats) -> Floats:
    """The nearest values of bfloat16, ties to even: the upper half of a float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).astype(np.uint32).view(np.float32)


def float16(name: str, values: Floats) -> Floats:
    """The nearest values of float16; infinite beyond 65,504."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


ROUNDINGS: Mapping[str, Rounding] = {"fp32": float32, "bf16": bfloat16, "fp16": float16}
