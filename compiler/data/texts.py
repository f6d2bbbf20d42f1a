"""How a row's values become a text and a label. The compiler's facts and the runtimes both read rows through here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from compiler.diagnostics import short

LONGEST_TEXT = 10_000_000  # characters; tokens of a longer one would fill the memory
_MOST_DIGITS = 18  # of a number that counts into the labels
_SHOWN = 40  # characters of a text in a message
_SURROGATE = re.compile("[\ud800-\udfff]")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
LARGEST_NUMBER = 1e30  # its square is a float64, and it is a float32


class BadValueError(ValueError):
    """A row's value is not what its column is for: the column and what was found in it."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(f'the column "{column}": {message}')
        self.column = column
        self.message = message


class UnknownLabelError(BadValueError):
    """A row's label is none of the labels: its name, and theirs."""

    def __init__(self, column: str, name: str, labels: tuple[str, ...]) -> None:
        super().__init__(column, f'"{short(name)}" is none of the labels')
        self.name, self.labels = name, labels


def text_of(values: Mapping[str, object], column: str) -> str:
    """The text in a column. Raises BadValueError when it is missing, not a string of characters, or too long."""
    value = values.get(column)
    if not isinstance(value, str) or _SURROGATE.search(value):
        raise BadValueError(column, f"expected text, found {found(values, column)}")
    if len(value) > LONGEST_TEXT:
        raise BadValueError(column, f"expected a text of at most {LONGEST_TEXT:,} characters, found {len(value):,}")
    return value


def texts_in(values: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, str]:
    """The text, and the second one where `columns` (from role to name) has one, by role. Raises BadValueError."""
    return {role: text_of(values, columns[role]) for role in ("text", "text_pair") if role in columns}


def label_of(values: Mapping[str, object], column: str, labels: tuple[str, ...] | None) -> str:
    """The label's name in a column; with `labels`, one of them.

    A name stands for itself; a whole number that is no name counts into `labels`, from 0, also when it is written as
    text, as CSV writes it. Raises BadValueError when there is no label, UnknownLabelError when it is none of `labels`.
    """
    name = _label_name(values, column)
    if labels is None or name in labels:
        return name
    if name.isascii() and name.isdecimal() and len(name) <= _MOST_DIGITS and int(name) < len(labels):
        return labels[int(name)]
    raise UnknownLabelError(column, name, labels)


def labels_of(values: Mapping[str, object], column: str, labels: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names of the labels in a column, sorted: a list of them, or an object that says of each whether it is one.

    With `labels`, each is one of them, as in `label_of`. Raises BadValueError, UnknownLabelError.
    """
    value = values.get(column)
    if isinstance(value, Mapping):
        unclear = [item for item in value.values() if not (isinstance(item, (bool, int)) and item in (0, 1))]
        if unclear:
            raise BadValueError(column, f"expected 0 or 1 for each label, found {found({column: unclear[0]}, column)}")
        value = [name for name, item in value.items() if item]
    if not isinstance(value, list):
        raise BadValueError(column, f"expected a list of labels, found {found(values, column)}")
    return label_names(label_of({column: item}, column, labels) for item in value)


def _label_name(values: Mapping[str, object], column: str) -> str:
    value = values.get(column)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) or (isinstance(value, str) and value and not _SURROGATE.search(value)):
        return str(value)
    raise BadValueError(column, f"expected a label, found {found(values, column)}")


def number_of(values: Mapping[str, object], column: str) -> float:
    """The number in a column, also when it is written as text, as CSV writes it. Raises BadValueError."""
    value = values.get(column)
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadValueError(column, f"expected a number, found {found(values, column)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST_NUMBER:
        shown = f"{number:g}" if math.isfinite(number) else "one that is not finite"
        raise BadValueError(column, f"expected a number of at most {LARGEST_NUMBER:g}, found {shown}")
    return number


def tokens_of(values: Mapping[str, object], column: str) -> tuple[str, ...]:
    """The tokens in a column, one at least. Raises BadValueError when they are no list of strings of characters."""
    value = values.get(column)
    if not isinstance(value, (list, tuple)):
        raise BadValueError(column, f"expected a list of tokens, found {found(values, column)}")
    if not value:
        raise BadValueError(column, "expected a list of tokens, found an empty one")
    for number, token in enumerate(value):
        if not isinstance(token, str) or not token or _SURROGATE.search(token):
            raise BadValueError(column, f"token {number}: expected text, found {found({column: token}, column)}")
    if sum(map(len, value)) > LONGEST_TEXT:
        raise BadValueError(column, f"expected tokens of at most {LONGEST_TEXT:,} characters")
    return tuple(value)


def tags_of(values: Mapping[str, object], column: str, num_tokens: int, labels: tuple[str, ...] | None) -> list[str]:
    """The tags in a column, one for each token; with `labels`, each one of them, or its number.

    Raises BadValueError, or UnknownLabelError for a tag that is none of `labels`.
    """
    value = values.get(column)
    if not isinstance(value, (list, tuple)):
        raise BadValueError(column, f"expected a list of tags, found {found(values, column)}")
    if len(value) != num_tokens:
        raise BadValueError(column, f"expected a tag for each of {num_tokens} tokens, found {len(value)} tags")
    return [_tag_of(tag, number, column, labels) for number, tag in enumerate(value)]


def _tag_of(tag: object, number: int, column: str, labels: tuple[str, ...] | None) -> str:
    if labels is None and isinstance(tag, (int, float)):
        raise BadValueError(column, f"tag {number} is the number {tag}, and /task/labels does not name the tags")
    try:
        return label_of({column: tag}, column, labels)
    except UnknownLabelError:
        raise
    except BadValueError as error:
        raise BadValueError(column, f"tag {number}: {error.message}") from None


def spans_of(values: Mapping[str, object], column: str, num_characters: int) -> list[dict[str, Any]]:
    """The spans in a column as start, end and label, in order. Raises BadValueError.

    They lie inside a text of so many characters, and no two have a character in common.
    """
    value = values.get(column)
    if not isinstance(value, (list, tuple)):
        raise BadValueError(column, f"expected a list of spans, found {found(values, column)}")
    spans = sorted((_span(span, number, column) for number, span in enumerate(value)), key=lambda span: span["start"])
    for span in spans:
        start, end = span["start"], span["end"]
        if not 0 <= start < end <= num_characters:
            message = f"a span goes from {start} to {end}, and the text has {num_characters} characters"
            raise BadValueError(column, message)
    for before, after in pairwise(spans):
        if after["start"] < before["end"]:
            where = f"{before['start']} to {before['end']}, and {after['start']} to {after['end']}"
            raise BadValueError(column, f"two spans overlap: {where}")
    return spans


def _span(span: object, number: int, column: str) -> dict[str, Any]:
    match span:
        case {"start": int(start), "end": int(end), "label": str(label)} if (
            type(start) is int and type(end) is int and label and not _SURROGATE.search(label)
        ):
            return {"start": start, "end": end, "label": label}
    raise BadValueError(column, f'span {number}: expected {{"start": 0, "end": 4, "label": "..."}}')


def label_names(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct names, sorted: numbers first and by value, then the rest."""
    return tuple(sorted(set(names), key=_label_order))


def _label_order(name: str) -> tuple[int, float, str]:
    return (0, float(name), name) if _NUMBER.fullmatch(name) else (1, 0.0, name)


def found(values: Mapping[str, object], column: str) -> str:
    """What stands in a column, in words for a person: no value, null, the number 3, the text "..."."""
    if column not in values:
        return "no value"
    value = values[column]
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return _text_found(value)
    kinds: dict[type, str] = {list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a value of type {type(value).__name__}")


def _text_found(value: str) -> str:
    if not value:
        return "an empty string"
    if _SURROGATE.search(value):
        return "a lone surrogate, which is no character"
    return f'the text "{value}"' if len(value) <= _SHOWN else f'the text "{value[:_SHOWN]}..."'
