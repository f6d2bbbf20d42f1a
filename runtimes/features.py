"""Rows as columns of arrays: those of a split on disk, written in one pass and read through memory maps."""

# N = rows, P = positions: values of all rows along an axis

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from compiler.files import write_json
from compiler.typed import read, to_json

TOKENS = "tokens"
"""The axis of the tokens that a model reads: it decides which rows share a batch."""
LABELS = "labels"
"""The axis of the tokens that a model writes after it has read the others."""
TARGETS = "targets"
IGNORED = -100
"""The target of a position that should be answered with nothing: it bears no loss, and no metric counts it."""
Array = npt.NDArray[Any]


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

    @staticmethod
    def single(values: Array) -> Ragged:
        """One value a row."""
        return Ragged(values, np.arange(len(values) + 1))

    @staticmethod
    def of(parts: Sequence[Array], empty: Array) -> Ragged:
        """The values of each row; `empty` says what they are like where there are no rows."""
        return Ragged(np.concatenate([empty[:0], *parts]), _offsets(array("q", map(len, parts))))

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
        lengths = self.lengths[rows]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[places], offsets)


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
        """What each row should be answered with."""
        return self.ragged(TARGETS)

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


class Features(Table):
    """The rows of a split, on disk."""

    facts: FeatureFacts

    def __init__(self, folder: Path) -> None:
        facts = read(FeatureFacts, json.loads((folder / "facts.json").read_text(encoding="utf-8")))
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
            longest_labels=facts.labels.longest if facts.labels else 0,
        )


def table_of(portions: Iterable[Portion], columns: Sequence[Column]) -> Table:
    """The rows of some portions, in memory."""
    found = list(portions)
    axes = dict.fromkeys(column.axis for column in columns if column.axis)
    lengths = {axis: array("q") for axis in axes}
    for portion in found:
        for axis, counted in lengths.items():
            counted.extend(map(len, portion.ragged[_first_of(columns, axis)]))
    arrays = {
        column.name: np.concatenate(
            [column.shaped(np.zeros(0, column.dtype)), *(_values(column, portion) for portion in found)]
        )
        for column in columns
    }
    return Table(
        num_rows=sum(portion.num_rows for portion in found),
        columns={column.name: column for column in columns},
        arrays=arrays,
        offsets={axis: _offsets(counted) for axis, counted in lengths.items()},
    )


def write_features(
    portions: Iterable[Portion],
    columns: Sequence[Column],
    folder: Path,
    *,
    max_length: int,
    pad_token_id: int,
    truncated: int = 0,
) -> FeatureFacts:
    """Writes the columns of some rows. Holds 8 bytes a row and axis; all else goes to disk as it comes.

    `truncated`: rows that were cut before they came here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths = {column.axis: array("q") for column in columns if column.axis}
    num_rows = truncated_labels = 0
    with ExitStack() as stack:
        files = {column.name: stack.enter_context((folder / f"{column.name}.bin").open("wb")) for column in columns}
        for portion in portions:
            truncated += portion.truncated
            truncated_labels += portion.truncated_labels
            num_rows += portion.num_rows
            for axis, found in lengths.items():
                found.extend(map(len, portion.ragged[_first_of(columns, axis)]))
            for column in columns:
                _append(column, portion, files[column.name])
    kept = tuple(column for column in columns if not (column.optional and _is_dropped(folder / f"{column.name}.bin")))
    for axis, found in lengths.items():
        np.save(folder / f"{axis}.offsets.npy", _offsets(found))
    tokens = lengths.get(TOKENS, array("q"))
    facts = FeatureFacts(
        num_rows=num_rows,
        num_tokens=sum(tokens),
        longest=max(tokens, default=0),
        truncated=truncated,
        max_length=max_length,
        pad_token_id=pad_token_id,
        columns=kept,
        labels=_label_facts(lengths[LABELS], truncated_labels) if LABELS in lengths else None,
    )
    write_json(folder / "facts.json", to_json(facts))
    return facts


def _label_facts(lengths: array[int], truncated: int) -> LabelFacts:
    return LabelFacts(num_tokens=sum(lengths), longest=max(lengths, default=0), truncated=truncated)


def _first_of(columns: Sequence[Column], axis: str) -> str:
    """The column that tells how long rows are along an axis; all of the axis are equally long."""
    return next(column.name for column in columns if column.axis == axis)


def _append(column: Column, portion: Portion, file: IO[bytes]) -> None:
    file.write(_values(column, portion).tobytes())


def _values(column: Column, portion: Portion) -> Array:
    """The values of a column, flat."""
    if not column.axis:
        return np.ascontiguousarray(portion.fixed[column.name], column.dtype)
    parts = portion.ragged[column.name]
    return np.concatenate([np.zeros(0, column.dtype), *parts]).astype(column.dtype, copy=False)


def _is_dropped(file: Path) -> bool:
    """Whether a file says nothing; then it is removed. Most tasks have one text, whose type ids are all zero."""
    with file.open("rb") as content:
        used = any(any(block) for block in iter(lambda: content.read(1 << 20), b""))
    if not used:
        file.unlink()
    return not used


def _offsets(lengths: array[int]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64) if lengths else (), out=offsets[1:])
    return offsets


def _mapped(file: Path, dtype: str) -> Array:
    return np.memmap(file, dtype, "r") if file.stat().st_size else np.zeros(0, dtype)
