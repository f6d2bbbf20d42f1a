"""How large the texts and lists are that a chat template asks for: looked at before they are made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import Formatter
from typing import Any

import jinja2

LARGEST = 10_000_000  # characters, items, or bits of a power
MAKERS = frozenset(
    [
        "batch",
        "center",
        "expandtabs",
        "format",
        "format_map",
        "indent",
        "join",
        "ljust",
        "replace",
        "rjust",
        "slice",
        "zfill",
    ]
)
"""Filters and methods that make something larger than what they are given."""
_WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(\d{6}|\*)")
"""In a text before %: a width of six digits or more, or one that is a value of its own."""


_TOO_WIDE = "it formats something to a width that is too large, or is a value of its own"


class TooLongError(jinja2.TemplateError):
    """The template takes too many steps, or asks for a text, list or number that is too large."""


def check_size(size: int) -> None:
    """Nothing for a text or list that may be made. Raises TooLongError."""
    if size > LARGEST:
        raise TooLongError(f"it makes a text or list of more than {LARGEST:,}")


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Nothing where the result of an operator may be made. Raises TooLongError."""
    match operator:
        case "*":
            check_size(_product(left, right))
        case "+" if hasattr(left, "__len__") and hasattr(right, "__len__"):
            check_size(len(left) + len(right))
        case "%" if isinstance(left, str) and _WIDE_PERCENT.search(left):
            raise TooLongError(_TOO_WIDE)
        case "**" if _bits(left, right) > LARGEST:
            raise TooLongError(f"it asks for a power with more than {LARGEST:,} bits")


def check_call(name: str, values: Sequence[Any]) -> None:
    """Nothing where the result of a method or filter may be made; `values` begin with its text. Raises TooLongError."""
    given, *others = values or ("",)
    numbers = [value for value in others if isinstance(value, int)]
    match name:
        case "format" | "format_map" if isinstance(given, str) and _is_wide(given):
            raise TooLongError(_TOO_WIDE)
        case "indent":
            check_size(str(given).count("\n") * max([*numbers, *(len(v) for v in others if isinstance(v, str)), 0]))
        case "replace" if len(others) >= 2:
            text, old, new = str(given), str(others[0]), str(others[1])
            check_size(len(text) + text.count(old) * len(new))
        case "join":
            check_size(_joined(values))
        case _ if name in MAKERS:
            check_size(max([*numbers, 0]))


def _is_wide(given: str) -> bool:
    """Whether a text with fields, or with marks of %, asks for a width of six digits, or for one that is a value."""
    try:
        specs = [spec or "" for _, _, spec, _ in Formatter().parse(given)]
    except ValueError:
        specs = []  # no format, which is said when it is used
    return bool(_WIDE_PERCENT.search(given)) or any("{" in spec or re.search(r"\d{6}", spec) for spec in specs)


def _joined(values: Sequence[Any]) -> int:
    """How long the joined texts are: of the method, whose text stands between them, and of the filter."""
    first, second = (*values, "", "")[:2]
    between, items = (second, first) if not isinstance(first, str) or isinstance(second, str) else (first, second)
    parts = items if isinstance(items, (list, tuple, str)) else ()
    return sum(len(part) if isinstance(part, str) else 1 for part in parts) + len(str(between)) * len(parts)


def _bits(base: Any, exponent: Any) -> int:
    """How long a power of whole numbers is; 0 for another."""
    return base.bit_length() * exponent if isinstance(base, int) and isinstance(exponent, int) else 0


def _product(left: Any, right: Any) -> int:
    """How long a text or list is that is repeated; 0 for a product of numbers."""
    sized, times = (left, right) if hasattr(left, "__len__") else (right, left)
    return len(sized) * int(times) if hasattr(sized, "__len__") else 0
