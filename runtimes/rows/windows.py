"""Rows that are read in windows: each window is a row to the model, and an answer is that of all of a row's windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.tasks import Example, Task
from compiler.windows import Windowed
from runtimes import tasks
from runtimes.rows.features import Ragged
from runtimes.rows.tokens import Encoder
from runtimes.tasks.interface import InputReader

Row = Mapping[str, Any]
WINDOW = "window"
"""What a window has beside the roles of its row: its number, and how many there are."""


def windows_of(task: Task, rows: Sequence[Row], reader: InputReader) -> list[Sequence[Row]]:
    """The windows of each row: the row itself where its task reads it whole, or where it is a window already."""
    if not isinstance(task, Windowed):
        return [[row] for row in rows]
    assert isinstance(reader, Encoder), "a text is read in windows"
    found = iter(tasks.windowed_module_of(task).windows(task, [row for row in rows if WINDOW not in row], reader))
    return [[row] if WINDOW in row else next(found) for row in rows]


def windowed(task: Task, portions: Iterable[Sequence[Example]], reader: InputReader) -> Iterator[list[Example]]:
    """Portions of rows, each row in its windows."""
    for portion in portions:
        windows = windows_of(task, [example.row for example in portion], reader)
        yield [replace(example, row=row) for example, rows in zip(portion, windows, strict=True) for row in rows]


def num_rows(windows: Iterable[Row]) -> int:
    """How many rows some windows are of, each of them whole."""
    return sum(WINDOW not in row or row[WINDOW][0] == 0 for row in windows)


def of_rows(outputs: Ragged, windows: Sequence[Sequence[Row]]) -> Ragged:
    """The outputs of windows as those of their rows, one window after another."""
    ends: npt.NDArray[np.int64] = np.cumsum([0, *map(len, windows)])
    return Ragged(outputs.values, outputs.offsets[ends])
