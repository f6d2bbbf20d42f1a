"""The rows that a user gives to a command. What is wrong with them is said as `recipe check` says it: exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.data.images import folder_of
from compiler.data.locate import missing_file, unreadable
from compiler.data.readers import IMAGES, SUFFIXES, DataError, Row, format_of, images_below, read_lines, read_rows
from compiler.data.texts import BadValueError, UnknownLabelError
from compiler.diagnostics import Diagnostic, Place, RecipeError, did_you_mean, short
from compiler.facts import RowPlace
from compiler.files import is_file, is_folder
from compiler.loading import shown_path

_INPUT = Path("standard input")


@dataclass(frozen=True, slots=True)
class GivenRow:
    """A row, and where it stands."""

    values: Mapping[str, object]
    place: RowPlace
    folder: Path = Path()  # that paths in it start from


def file_rows(path: Path) -> Iterator[GivenRow]:
    """The rows of a file, at least one. Raises RecipeError where it can't be read."""
    form = "folder" if is_folder(path) and images_below(path) else format_of(path)
    if not is_file(path) and form != "folder":
        raise _error("R301", shown_path(path), *missing_file(path, str(path), "the working folder"))
    if form is None:
        message = f'the suffix of "{path.name}" is no known data format'
        raise _error("R303", shown_path(path), message, f"known formats: {', '.join(SUFFIXES)}")
    yield from _given(path, lambda: read_rows(path, form), folder_of(path, form))


def folder_rows(path: Path, column: str) -> Iterator[GivenRow]:
    """The images of a folder and of those in it, at least one, without labels. Raises RecipeError."""
    names = images_below(path)
    if not names:
        raise _error("R306", shown_path(path), "there are no images", f"known suffixes: {', '.join(sorted(IMAGES))}")
    for number, name in enumerate(names):
        yield GivenRow({column: name}, RowPlace(file=shown_path(path), line=0, row=number), path)


def input_rows() -> Iterator[GivenRow]:
    """The rows of standard input, as JSONL, at least one. Raises RecipeError where they can't be read."""
    yield from _given(_INPUT, lambda: read_lines(sys.stdin.buffer, _INPUT))


def typed_rows(values: Sequence[str], column: str, flag: str) -> Iterator[GivenRow]:
    """The values of a flag of the command line as rows."""
    for number, value in enumerate(values):
        yield GivenRow({column: value}, RowPlace(file=flag, line=number + 1, row=number))


def _given(path: Path, read: Callable[[], Iterator[Row]], folder: Path = Path()) -> Iterator[GivenRow]:
    file, row = shown_path(path), None
    try:
        for row in read():
            yield GivenRow(row.values, RowPlace(file=file, line=row.line, row=row.number), folder)
    except DataError as error:
        raise RecipeError([unreadable(error)]) from None
    if row is None:
        raise _error("R306", file, "there are no rows", "give at least one")


def refused(row: GivenRow, error: BadValueError, rename: str) -> RecipeError:
    """A bad value as a finding about its row. `rename`: what to do about a column of another name."""
    hint = (
        did_you_mean(short(error.name), map(short, error.labels), noun="the labels")
        if isinstance(error, UnknownLabelError)
        else ""
    )
    where = "" if row.place.line else f" in row {row.place.row}"
    code, message = "R312" if isinstance(error, UnknownLabelError) else "R313", str(error)
    if row.values and error.column not in row.values:
        code, message = "R304", f'the row has no column "{error.column}"'
        hint = f"{did_you_mean(error.column, row.values, noun='it has')} ({rename})"
    at = row.place.at
    return _error(code, at.file, f"{message}{where}", hint or "remove the row or fill it in", line=at.line)


def _error(code: str, file: str, message: str, hint: str, line: int = 1) -> RecipeError:
    return RecipeError([Diagnostic(code=code, at=Place(file=file, line=line), message=message, hint=hint)])
