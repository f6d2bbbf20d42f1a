"""Files -> rows, one after another."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from compiler.diagnostics import short
from compiler.hashes import sha256_of

Format = Literal["jsonl", "json", "csv", "tsv", "parquet", "folder"]
SUFFIXES: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
IMAGES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The suffixes of images, which are the rows of a folder."""
FOLDER_COLUMNS = ("image", "label")
_LONGEST_FIELD = 2**31 - 1  # characters; the largest limit that the csv module takes on every platform
_FIRST_ROWS = 100  # rows that name the columns of a JSON file, whose rows need not all have the same
_SPACE = " \t\r\n"


class RepeatedKeyError(ValueError):
    """An object of a JSON text has a key twice."""


def once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these members. Raises RepeatedKeyError: readers disagree about which of two equal keys counts."""
    members = dict(pairs)
    if len(members) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise RepeatedKeyError(next(key for key, _ in pairs if counts[key] > 1))
    return members


_DECODER = json.JSONDecoder(object_pairs_hook=once_each)


class DataError(Exception):
    """A data file can't be read: its path, line (from 1; 0 where there is none), what was found, and what to do."""

    def __init__(self, path: Path, line: int, message: str, hint: str) -> None:
        super().__init__(f"{path}:{line}: {message}")
        self.path = path
        self.line = line
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number in the file (from 0), the line it starts at (from 1; 0 in parquet), its values by column."""

    number: int
    line: int
    values: Mapping[str, object]


def format_of(path: Path | str) -> Format | None:
    """The format that a file name's suffix stands for, or None when no format has it."""
    return SUFFIXES.get(Path(path).suffix.lower())


def names_image(text: str) -> bool:
    """Whether a text is the path of an image, by its suffix."""
    return Path(text).suffix.lower() in IMAGES


def read_rows(path: Path, form: Format) -> Iterator[Row]:
    """The rows of a file. Raises DataError at the first that can't be read, and when the file can't."""
    try:
        yield from _READERS[form](path)
    except UnicodeDecodeError:
        raise _not_utf8(path, _first_bad_line(path)) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(path, 0, f"the file can't be read: {reason}", "check the path and its permissions") from None


def columns_of(path: Path, form: Format) -> tuple[str, ...]:
    """The names of a file's columns, in order; of JSON, those of the first hundred rows."""
    if form == "folder":
        return FOLDER_COLUMNS
    if form == "parquet":
        return _parquet_columns(path)
    if form in ("csv", "tsv"):
        return _header(path, "," if form == "csv" else "\t")
    names: dict[str, None] = {}
    for row in islice(read_rows(path, form), _FIRST_ROWS):
        names.update(dict.fromkeys(row.values))
    return tuple(names)


def _object(value: object, path: Path, line: int) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise DataError(path, line, f"a row is an object, found {_kind(value)}", 'write {"column": value, ...}')
    return value


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        yield from read_lines(file, path)


def read_lines(lines: Iterable[bytes], path: Path) -> Iterator[Row]:
    """The rows of lines of JSON. `path` is their name in errors. Raises DataError at the first that can't be read."""
    number = 0
    for line, data in enumerate(lines, start=1):
        try:
            text = data.decode("utf-8-sig" if line == 1 else "utf-8").strip(_SPACE)
        except UnicodeDecodeError:
            raise _not_utf8(path, line) from None
        if text:
            yield Row(number, line, _object(_json_line(text, path, line), path, line))
            number += 1


def _not_utf8(path: Path, line: int) -> DataError:
    return DataError(path, line, "the text is not UTF-8", "save the file as UTF-8")


def _json_line(text: str, path: Path, line: int) -> object:
    try:
        value, end = _decode(text, 0)
        _expect_end(text, end)
    except json.JSONDecodeError as error:
        hint = "every line of a .jsonl file is one JSON object"
        if text in ("[", "{"):
            hint = "the file is one JSON value over several lines: name it .json"
        raise DataError(path, line, f"not valid JSON: {_reason(error)}", hint) from None
    return value


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The value at a position, and where it ends. Raises JSONDecodeError."""
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("Nested too deeply", text, position) from None
    except RepeatedKeyError as error:
        raise json.JSONDecodeError(f'The key "{short(str(error))}" stands twice in an object', text, position) from None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise json.JSONDecodeError("A number has too many digits", text, position) from None


def _reason(error: json.JSONDecodeError) -> str:
    return f"{error.msg[:1].lower()}{error.msg[1:]} (column {error.colno})"


def _read_json(path: Path) -> Iterator[Row]:
    text = path.read_bytes().decode("utf-8-sig")
    try:
        yield from _array_rows(text, _array_start(text, path), path)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {_reason(error)}"
        raise DataError(path, error.lineno, message, "repair the file at this line") from None


def _array_start(text: str, path: Path) -> int:
    """The position of the list of rows: the file's value, or the one list in the object that it is."""
    start = _skip(text, 0)
    if text.startswith("[", start):
        return start
    hint = "a .json file is a list of objects; of one object a line, .jsonl"
    if not text.startswith("{", start):
        raise DataError(path, 1, "expected a list of rows", hint)
    lists = [(key, at) for key, at in _members(text, start) if text.startswith("[", at)]
    if len(lists) != 1:
        found = ", ".join(f'"{key}"' for key, _ in lists) or "none"
        raise DataError(path, 1, f"expected a list of rows, or an object with one list in it; lists: {found}", hint)
    return lists[0][1]


def _members(text: str, start: int) -> Iterator[tuple[str, int]]:
    """The keys of the object that starts at a position, each with the position of its value."""
    position = _skip(text, start + 1)
    while not text.startswith("}", position):
        key, position = _decode(text, position)
        position = _expect(text, _skip(text, position), ":")
        yield str(key), position
        _, position = _decode(text, position)
        position = _after_item(text, position, "}")
    _expect_end(text, position + 1)


def _array_rows(text: str, start: int, path: Path) -> Iterator[Row]:
    line, counted, number = 1, 0, 0
    position = _skip(text, start + 1)
    while not text.startswith("]", position):
        line += text.count("\n", counted, position)
        counted = position
        value, position = _decode(text, position)
        yield Row(number, line, _object(value, path, line))
        number += 1
        position = _after_item(text, position, "]")
    if text.startswith("[", _skip(text, 0)):
        _expect_end(text, position + 1)


def _after_item(text: str, position: int, close: str) -> int:
    """The position of the next item, or of the closing bracket."""
    position = _skip(text, position)
    if text.startswith(close, position):
        return position
    position = _expect(text, position, ",")
    if text.startswith(close, position):
        raise json.JSONDecodeError("Comma before the end", text, position)
    return position


def _expect(text: str, position: int, sign: str) -> int:
    if not text.startswith(sign, position):
        raise json.JSONDecodeError(f'Expecting "{sign}"', text, position)
    return _skip(text, position + 1)


def _expect_end(text: str, position: int) -> None:
    if _skip(text, position) != len(text):
        raise json.JSONDecodeError("Extra data", text, _skip(text, position))


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _read_csv(path: Path) -> Iterator[Row]:
    return _read_separated(path, ",")


def _read_tsv(path: Path) -> Iterator[Row]:
    return _read_separated(path, "\t")


def _read_separated(path: Path, separator: str) -> Iterator[Row]:
    records = _records(path, separator)
    _, header = next(records, (1, []))
    _check_header(header, path)
    for number, (line, record) in enumerate(records):
        if len(record) != len(header):
            message = f"{len(record)} fields, but the header names {len(header)} columns"
            sign = "commas" if separator == "," else "tabs"
            raise DataError(path, line, message, f"put fields with {sign}, quotes or line breaks in double quotes")
        yield Row(number, line, dict(zip(header, record, strict=True)))


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not empty, each with the line it starts at."""
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        line = 1
        try:
            for record in reader:
                if record:
                    yield line, record
                line = reader.line_num + 1
        except csv.Error as error:
            hint = 'a quote inside a quoted field is written twice: ""'
            raise DataError(path, line, f"not a valid record: {error}", hint) from None


def _check_header(header: list[str], path: Path) -> None:
    if not header:
        raise DataError(path, 1, "the file is empty", "the first line names the columns")
    _check_names(header, path, 1)


def _check_names(names: list[str], path: Path, line: int) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(path, line, f'the column "{short(repeated[0])}" stands twice', "give each its own name")


def _header(path: Path, separator: str) -> tuple[str, ...]:
    try:
        _, header = next(_records(path, separator), (1, []))
    except (UnicodeDecodeError, OSError):
        return tuple(next(read_rows(path, "csv" if separator == "," else "tsv")).values)  # raises the DataError
    _check_header(header, path)
    return tuple(header)


def _read_parquet(path: Path) -> Iterator[Row]:
    parquet, broken = _pyarrow(path)
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, path, 0)
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    yield Row(number, 0, values)
                    number += 1
    except broken as error:
        raise _not_parquet(path, error) from None


def _parquet_columns(path: Path) -> tuple[str, ...]:
    parquet, broken = _pyarrow(path)
    try:
        names = parquet.read_schema(path).names
    except broken as error:
        raise _not_parquet(path, error) from None
    except OSError as error:
        raise DataError(path, 0, f"the file can't be read: {error}", "check the path and its permissions") from None
    _check_names(names, path, 0)
    return tuple(names)


def _pyarrow(path: Path) -> tuple[Any, type[Exception]]:
    """The module pyarrow.parquet and its errors, imported on use: it takes a quarter of a second."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(path, 0, "reading parquet needs pyarrow", "pip install pyarrow") from None
    return parquet, ArrowException


def _not_parquet(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(path, 0, f"not a parquet file: {reason}", "write the file again")


def images_below(folder: Path) -> tuple[str, ...]:
    """The images in the folders of a folder, as paths from it, sorted; what begins with a dot is left out."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    return tuple(sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)))


def _read_folder(path: Path) -> Iterator[Row]:
    """The images of a folder, each labelled by the folder in it that it is in."""
    for number, name in enumerate(images_below(path)):
        label, slash, _ = name.partition("/")
        if not slash:
            hint = f"its label is the name of a folder: {path.name}/LABEL/{name}"
            raise DataError(path, 0, f'the image "{short(name)}" is in no folder of its label', hint)
        yield Row(number, 0, dict(zip(FOLDER_COLUMNS, (name, label), strict=True)))


def sha256_of_rows(path: Path, form: Format, cache: Path | None) -> str:
    """The sha256 of a file of rows; of a folder, that of the names in it."""
    if form != "folder":
        return sha256_of(path, cache)
    return hashlib.sha256("\n".join(images_below(path)).encode("utf-8", "surrogateescape")).hexdigest()


def _first_bad_line(path: Path) -> int:
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            try:
                data.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 1


_READERS: Mapping[Format, Callable[[Path], Iterator[Row]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
    "folder": _read_folder,
}
