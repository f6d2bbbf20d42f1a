"""What is asked of a server: the rows of a request, limits, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compiler.data.readers import RepeatedKeyError, once_each
from compiler.diagnostics import did_you_mean, short
from compiler.json_text import NestedError, value_of
from runtimes.serving.served import Served

Row = Mapping[str, object]
"""The values of a row by column."""
ROWS, TEXT = "rows", "text"
_SHAPE = 'send {"rows": [{"column": value, ...}, ...]} or {"text": "..."}'
_MOST_NESTED = 64
"""Lists and objects in one another; what reads a row goes through them by calls, and so does what writes it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a request may ask, and how rows are put together."""

    max_bytes: int = 4 << 20  # of a request's body
    max_rows: int = 256  # of a request
    max_characters: int = 200_000  # of a row, of what is tokenized; of the rows of a batch together as well
    max_seconds: float = 120.0  # that a request may wait for its answer, from when it was read
    max_connections: int = 512
    max_batch: int = 32  # rows that are computed at once
    max_wait: float = 0.0  # seconds that a row waits for others to share its batch
    max_waiting: int = 1024  # requests; those beyond are refused
    max_held: int = 256 << 20  # bytes of all requests together


class RequestError(Exception):
    """What is wrong with a request, or with us: an HTTP status, a code that `recipe explain` knows, and the place."""

    def __init__(
        self, status: int, code: str, message: str, hint: str = "", *, row: int | None = None, key: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.hint = status, code, message, hint
        self.row, self.key = row, key

    def to_json(self) -> dict[str, Any]:
        """The error as the endpoint answers it; the row and its key where it is about one."""
        told = {"status": self.status, "code": self.code, "message": self.message, "hint": self.hint}
        place = {"row": self.row, "key": self.key}
        return {"error": told | {name: value for name, value in place.items() if value is not None}}


# --- what is asked


def rows_asked(body: bytes, served: Served, limits: Limits) -> tuple[Row, ...]:
    """The rows of a request's body. Raises RequestError: 400 where it is no JSON, 422 where it asks for no rows."""
    value = _json(body)
    if not isinstance(value, dict):
        raise _misshapen("a request is a JSON object")
    if unknown := sorted({*value} - {ROWS, TEXT}):
        key = short(unknown[0])
        raise _misshapen(f'unknown key "{key}"', did_you_mean(key, (ROWS, TEXT), noun="keys"), key)
    match value:
        case {"text": str(text)} if len(value) == 1:
            return (_typed(text, served),)
        case {"text": _} if len(value) == 1:
            raise _misshapen("expected a text", key=TEXT)
        case {"rows": list(rows)} if len(value) == 1:
            return _checked(rows, limits)
        case {"rows": _} if len(value) == 1:
            raise _misshapen("expected a list of rows", key=ROWS)
        case _:
            raise _misshapen(f'a request has "{ROWS}" or "{TEXT}"')


def _json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
        value = value_of(text, once_each)
    except UnicodeDecodeError:
        raise _unreadable("the body is not UTF-8") from None
    except NestedError:
        raise _nested() from None
    except RepeatedKeyError as error:
        raise _unreadable(f"the key {json.dumps(short(str(error)))} stands twice in an object") from None
    except ValueError as error:
        raise _unreadable(f"the body is not JSON: {error}") from None
    if not _is_shallow(value):
        raise _nested()
    return value


def _is_shallow(value: Any) -> bool:
    """Whether no more lists and objects than _MOST_NESTED are in one another."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_MOST_NESTED):
        parts = (each.values() if isinstance(each, dict) else each for each in level)
        level = [part for each in parts for part in each if isinstance(part, (dict, list))]
    return not level


def _typed(text: str, served: Served) -> Row:
    if served.text_column is None:
        reads = ", ".join(f'"{column}"' for column in served.required)
        raise _misshapen(f"a text alone is no row here: rows have {reads}", key=TEXT)
    return {served.text_column: text}


def _checked(rows: Sequence[Any], limits: Limits) -> tuple[Row, ...]:
    if not rows:
        raise _misshapen("there are no rows", key=ROWS)
    if len(rows) > limits.max_rows:
        message = f"{len(rows):,} rows; a request may have {limits.max_rows:,}"
        raise RequestError(422, "E621", message, "send them in several requests", key=ROWS)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(422, "E621", "a row is an object", _SHAPE, row=number)
    return tuple(rows)


def _nested() -> RequestError:
    return _unreadable(f"the body is nested too deeply: {_MOST_NESTED} lists and objects may be in one another")


def _unreadable(message: str) -> RequestError:
    return RequestError(400, "E621", message, _SHAPE)


def _misshapen(message: str, hint: str = _SHAPE, key: str | None = None) -> RequestError:
    return RequestError(422, "E621", message, hint, key=key)
