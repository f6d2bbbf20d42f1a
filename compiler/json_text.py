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
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=members)
    except RecursionError:
        raise NestedError from None


def value_in(file: Path) -> Any:
    """The value in a JSON file. Raises OSError, or ValueError."""
    return value_of(file.read_text(encoding="utf-8"))


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _finite(word: str) -> float:
    if not isfinite(number := float(word)):
        raise ValueError(f"{word} is more than a number of 64 bits can be")
    return number
