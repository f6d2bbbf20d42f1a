"""JSON texts -> values, of files and requests that others wrote: whatever they hold, it is a value or a ValueError."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any

Members = Callable[[list[tuple[str, object]]], dict[str, object]]


class NestedError(ValueError):
    """Lists and objects are in one another too deeply to be read."""

    def __init__(self) -> None:
        super().__init__("it is nested too deeply")


def value_of(text: str, members: Members | None = None) -> Any:
    """The value of a JSON text. Raises ValueError, also for numbers that JSON or a float of 64 bits has not.

    `members`: what makes an object of its members.
    """
    return _loaded(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=members)


def value_in(file: Path) -> Any:
    """The value in a JSON file. Raises OSError, or ValueError."""
    return value_of(file.read_text(encoding="utf-8"))


def object_in(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model; an empty one where there is no file. Raises ValueError naming the file.

    NaN and Infinity are read, as some models' files have them.
    """
    try:
        found = _loaded(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{file.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return found


def _loaded(text: str, **options: Any) -> Any:
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise NestedError from None


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _finite(word: str) -> float:
    if not isfinite(number := float(word)):
        raise ValueError(f"{word} is more than a number of 64 bits can be")
    return number
