"""Rows as columns of arrays: those of a split on disk, read through memory maps."""

# N = rows, P = positions: values of all rows along an axis

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from compiler.typed import read

TOKENS = "tokens"
"""The axis of the tokens that a model reads: it decides which rows share a batch."""
LABELS = "labels"
"""The axis of the tokens that a model writes after it has read the others."""
TARGETS = "targets"
IGNORED = -100
"""The target of a position that should be answered with nothing: it bears no loss, and no metric counts it."""
POSSIBLE = -101
"""The target of a position that could have been the answer to its row: it bears no loss of its own either."""
NOTES = "notes.jsonl"
FACTS = "facts.json"
Array = npt.NDArray[Any]


def is_answered(targets: Array) -> npt.NDArray[np.bool_]:
    """Where something is to be answered: whole numbers below zero say that nothing is."""
    return targets >= 0 if targets.dtype.kind in "iu" else np.ones(targets.shape, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One value a row, or an array of one shape for each, or as many as the row is long along an axis."""

    name: str  # the argument of the model, or "targets"
    dtype: Literal["int8", "uint8", "int32", "int64", "float32"]
    axis: str = ""  # "": one value a row
    padding: int = 0
    optional: bool = False  # left out where all its values are zero
    shape: tuple[int, ...] = ()  # of every row's array, channels first; (): one value, or those along the axis
    center: tuple[float, ...] = ()  # of each channel: a batch has (value - center) / spread, in float32
    spread: tuple[float, ...] = ()

    @property
    def batch_dtype(self) -> str:
        """Of the values in a batch: whole numbers are int64 there, but for what is scaled."""
        return "float32" if self.center or self.dtype.startswith("float") else "int64"

    def shaped(self, values: Array) -> Array:
        """Flat values as they stand in an array: [N, *shape] where a row has several."""
        return values.reshape(-1, *self.shape) if self.shape else values

    def scaled(self, values: Array) -> Array:
        """[B, *shape] stored values as a batch has them."""
        if not self.center:
            return values
        center, spread = (np.array(part, np.float32).reshape(-1, 1, 1) for part in (self.center, self.spread))
        found: Array = (values.astype(np.float32) - center) / spread
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
    """Some rows: an array a row of each column with an axis, and [N] of each other column."""

    ragged: Mapping[str, Sequence[Array]]
    fixed: Mapping[str, Array]
    truncated: int  # of the rows
    notes: Sequence[Any] = ()  # of each row, as JSON: what is measured by, and no model reads; none where targets do
    truncated_labels: int = 0  # of the rows, along LABELS

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(next(iter((*self.fixed.values(), *self.ragged.values()))))


@dataclass(frozen=True, slots=True)
class Ragged:
    """Values of rows that may have any number of them: those of row i are values[offsets[i]:offsets[i + 1]]."""

    values: Array  # [P, ...]
    offsets: npt.NDArray[np.int64]  # [N + 1]
    notes: Sequence[Any] = ()  # [N] what else is known of each row, where something is

    @staticmethod
    def single(values: Array) -> Ragged:
        """One value a row."""
        return Ragged(values, np.arange(len(values) + 1))

    @staticmethod
    def of(parts: Sequence[Array], empty: Array) -> Ragged:
        """The values of each row; `empty` says what they are like where there are no rows."""
        return Ragged(np.concatenate([empty[:0], *parts]), offsets_of([*map(len, parts)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[N] how many values each row has."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """[P] the row that each value is of."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def row(self, index: int) -> Array:
        """The values of one row."""
        return self.values[int(self.offsets[index]) : int(self.offsets[index + 1])]

    def take(self, rows: npt.NDArray[np.int64]) -> Ragged:
        """Some of the rows, in this order."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        notes = [self.notes[row] for row in rows.tolist()] if self.notes else ()
        return Ragged(self.values[places], offsets, notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFacts:
    """What rows have along LABELS."""

    num_tokens: int = 0
    longest: int = 0  # tokens of the longest row, after truncation
    truncated: int = 0  # rows that were cut


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFacts:
    """What stands in a folder of features."""

    num_rows: int
    num_tokens: int
    longest: int  # tokens of the longest row, after truncation
    truncated: int  # rows that were cut
    max_length: int
    pad_token_id: int
    columns: tuple[Column, ...]
    labels: LabelFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows as flat arrays. Row i of a column with an axis is at offsets[axis][i] to offsets[axis][i + 1]."""

    num_rows: int
    columns: Mapping[str, Column]
    arrays: Mapping[str, Array]
    offsets: Mapping[str, npt.NDArray[np.int64]]
    notes: Sequence[Any] = ()  # [N] what else is known of each row, where something is
    longest_labels: int = 0  # of any row along LABELS; 0 where it was not counted

    def __len__(self) -> int:
        return self.num_rows

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[N] tokens of each row; one where the model reads no tokens."""
        return np.diff(self.offsets[TOKENS]) if TOKENS in self.offsets else np.ones(len(self), np.int64)

    @property
    def unit(self) -> Literal["tokens", "rows"]:
        """What `lengths` count."""
        return "tokens" if TOKENS in self.offsets else "rows"

    @property
    def targets(self) -> Ragged:
        """What each row should be answered with, and what it is measured by."""
        return replace(self.ragged(TARGETS), notes=self.notes)

    def ragged(self, name: str) -> Ragged:
        """The values of a column."""
        column = self.columns[name]
        offsets = self.offsets[column.axis] if column.axis else np.arange(len(self) + 1)
        return Ragged(self.arrays[name], offsets)

    def row(self, index: int) -> dict[str, Array]:
        """The values of one row by column."""
        return {name: self._row(column, index) for name, column in self.columns.items()}

    def _row(self, column: Column, index: int) -> Array:
        if not column.axis:
            return np.asarray(self.arrays[column.name][index])
        return self.ragged(column.name).row(index)


class Notes(Sequence[Any]):
    """The notes of a split's rows, read when one is asked for."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @cached_property
    def _values(self) -> list[Any]:
        if not self._file.exists():
            return []
        with self._file.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]


class Features(Table):
    """The rows of a split, on disk."""

    facts: FeatureFacts

    def __init__(self, folder: Path) -> None:
        facts = read(FeatureFacts, json.loads((folder / FACTS).read_text(encoding="utf-8")))
        axes = {column.axis for column in facts.columns if column.axis}
        object.__setattr__(self, "facts", facts)
        super().__init__(
            num_rows=facts.num_rows,
            columns={column.name: column for column in facts.columns},
            arrays={
                column.name: column.shaped(_mapped(folder / f"{column.name}.bin", column.dtype))
                for column in facts.columns
            },
            offsets={axis: np.load(folder / f"{axis}.offsets.npy", mmap_mode="r") for axis in axes},
            notes=Notes(folder / NOTES),
            longest_labels=facts.labels.longest if facts.labels else 0,
        )


def table_of(portions: Iterable[Portion], columns: Sequence[Column]) -> Table:
    """The rows of some portions, in memory."""
    found = list(portions)
    axes = dict.fromkeys(column.axis for column in columns if column.axis)
    lengths: dict[str, list[int]] = {axis: [] for axis in axes}
    for portion in found:
        for axis, counted in lengths.items():
            counted.extend(map(len, portion.ragged[first_of(columns, axis)]))
    arrays = {
        column.name: np.concatenate(
            [column.shaped(np.zeros(0, column.dtype)), *(flat_values(column, portion) for portion in found)]
        )
        for column in columns
    }
    return Table(
        num_rows=sum(portion.num_rows for portion in found),
        columns={column.name: column for column in columns},
        arrays=arrays,
        offsets={axis: offsets_of(counted) for axis, counted in lengths.items()},
        notes=[note for portion in found for note in portion.notes],
    )


def first_of(columns: Sequence[Column], axis: str) -> str:
    """The column that tells how long rows are along an axis; all of the axis are equally long."""
    return next(column.name for column in columns if column.axis == axis)


def flat_values(column: Column, portion: Portion) -> Array:
    """The values of a column, flat."""
    if not column.axis:
        return np.ascontiguousarray(portion.fixed[column.name], column.dtype)
    parts = portion.ragged[column.name]
    return np.concatenate([np.zeros(0, column.dtype), *parts]).astype(column.dtype, copy=False)


def offsets_of(lengths: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[N + 1] where each row starts, and the last one ends, by the rows' lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.asarray(lengths, np.int64), out=offsets[1:])
    return offsets


def _mapped(file: Path, dtype: str) -> Array:
    return np.memmap(file, dtype, "r") if file.stat().st_size else np.zeros(0, dtype)
