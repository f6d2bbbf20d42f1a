"""What localisation found, as verification.json and bisect.json hold it, and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compiler.typed import to_json

BISECT = "bisect.json"
MASKED = 1e29
"""A difference beyond it is that of a mask."""
INPUTS = "what is read"
"""Stands in the place of a layer where rows are read otherwise."""
HEALTHY = "no layer leaves the noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """A constant that an operator reads."""

    name: str
    shape: tuple[int, ...]
    value: float | None = None  # of a single number


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator of a graph."""

    op_type: str
    name: str
    attributes: str
    file: str  # where the graph is, when a model has several
    constants: tuple[Constant, ...]

    def __str__(self) -> str:
        told = ", ".join(part for part in (self.attributes, *(self._of(one) for one in self.constants)) if part)
        place = f" in {self.file}" if self.file else ""
        return f"{self.op_type} {self.name}{place}{f' ({told})' if told else ''}"

    @staticmethod
    def _of(constant: Constant) -> str:
        if constant.value is not None:
            return f"{constant.name} = {constant.value:.6g}"
        return f"{constant.name} {list(constant.shape)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDelta:
    """How far what a layer gives is from what it gives in the source."""

    layer: str
    max_abs: float | None  # None: the graph has nothing of its size
    relative: float | None  # to the largest value of the source's
    allowed: float
    right: bool
    added: float | None = None  # where weights are rounded: how much more of it is wrong than of what it is made from


@dataclass(frozen=True, slots=True, kw_only=True)
class Localised:
    """The first layer and operator whose error leaves the noise, and how far every layer is off."""

    rows: tuple[int, ...]  # that were compared, in one batch
    layer: str | None = None  # None: no layer leaves the noise
    operation: str = ""  # what the source computes there
    operator: Operator | None = None
    max_abs: float | None = None
    allowed: float = 0.0
    note: str = ""
    layers: tuple[LayerDelta, ...] = ()
    rounded: bool = False  # whether weights are rounded: then it is the layer that adds most to the error
    followed: bool = True  # whether the layers could be compared; the note says why not

    @property
    def found(self) -> bool:
        """Whether a layer leaves the noise."""
        return self.layer is not None

    def says(self) -> str:
        """What was found, in a sentence."""
        return ": ".join(self.lines())

    def lines(self) -> list[str]:
        """What was found for a terminal: where, by which operator, and why."""
        where = _told_of_rows(self.rows)
        if not self.followed:
            return [f"{where}: layers were not compared: {self.note}"]
        if self.layer is None:
            return [f"{where}: {HEALTHY}{f'; {self.note}' if self.note else ''}"]
        if self.rounded:
            named = f"by the operator {self.operator}" if self.operator else "its operator has no name"
            return [f"{where}: {self.layer} adds most to the error of rounding", f"{self.note}; {named}"]
        if self.layer == INPUTS:
            return [f"{where}: it is read otherwise than its source was", self.note]
        off = "nothing in the graph is like it" if self.max_abs is None else f"max |Δ| {self.max_abs:.2g}"
        off = "other places are masked" if self.max_abs is not None and self.max_abs >= MASKED else off
        first = f"{where}: {self.layer} is the first layer that leaves the noise ({self.operation}; {off}, "
        first += f"{self.allowed:.2g} allowed)"
        operator = f"by the operator {self.operator}" if self.operator else "no operator of the graph computes it"
        return [first, operator, *([self.note] if self.note else [])]

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object; compiler.typed.read reads it back."""
        value: dict[str, Any] = to_json(self)
        return value


def _told_of_rows(rows: tuple[int, ...]) -> str:
    if not rows:
        return "no row"
    return f"row {rows[0]}" if len(rows) == 1 else f"rows {', '.join(map(str, rows))} in one batch"
