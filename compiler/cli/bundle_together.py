"""recipe predict of a bundle of several tasks: each row is answered by all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.rows import GivenRow, typed_rows
from compiler.diagnostics import printable

if TYPE_CHECKING:
    from runtimes.bundles.bundle import Bundle
    from runtimes.bundles.together import TogetherBundle

Reader = Callable[[GivenRow], Mapping[str, Any]]
TEXT = "text"
_ROWS_AT_ONCE = 1024


def columns_of(part: Bundle, column: str | None, *, typed: bool) -> dict[str, str]:
    """The columns by role that a task reads of a row; `typed`: of a row that has the text alone."""
    from compiler import tasks

    inputs = tasks.module_of(part.task).INPUTS
    columns = dict(part.manifest.columns)
    if typed and (others := [role for role in inputs[1:] if role in columns]):
        name = part.manifest.part
        raise click.UsageError(f"{name} reads {' and '.join((inputs[0], *others))}: give rows with --input")
    named = TEXT if typed else column
    return {**columns, inputs[0]: named} if named else columns


def answered_together(
    opened: TogetherBundle, rows: Iterator[GivenRow], readers: Mapping[str, Reader], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Each row with the predictions of all tasks by name, in order; memory does not grow with the rows."""
    while portion := list(islice(rows, _ROWS_AT_ONCE)):
        given = {name: [read(row) for row in portion] for name, read in readers.items()}
        for row, prediction in zip(portion, opened.predict(given, batch_size), strict=True):
            yield {**row.values, "prediction": prediction}


def typed_texts(texts: tuple[str, ...]) -> Iterator[GivenRow]:
    """The texts of the command line as rows."""
    return typed_rows(texts, TEXT, f"--{TEXT}")


def answer_line(opened: TogetherBundle, answered: Mapping[str, Any]) -> str:
    """An answered text for a terminal."""
    from runtimes import tasks

    lines = {name: tasks.module_of(part.task).line for name, part in opened.parts.items()}
    shown = "; ".join(f"{name} {lines[name](each)}" for name, each in answered["prediction"].items())
    return printable(f"{shown}  {answered[TEXT]}")


def refuse_data(folder: Path, names: tuple[str, ...]) -> None:
    """Raises click's error: rows are measured by one task."""
    raise click.UsageError(f"rows are measured by one task: recipe verify {folder / names[0]} --data ROWS")
