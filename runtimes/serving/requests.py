"""Answers to requests that come at once: each is read by itself, rows of several share a batch, on one thread."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, Queue
from threading import Thread
from typing import Any

from compiler.data.readers import RepeatedKeyError, once_each
from compiler.data.texts import BadValueError
from compiler.diagnostics import did_you_mean, short
from compiler.json_text import NestedError, value_of
from runtimes.errors import RunError
from runtimes.serving.served import Served

Row = Mapping[str, object]
"""The values of a row by column."""
ROWS, TEXT = "rows", "text"
_SHAPE = 'send {"rows": [{"column": value, ...}, ...]} or {"text": "..."}'
_MOST_NESTED = 64
"""Lists and objects in one another; what reads a row goes through them by calls, and so does what writes it back."""
_ROWS_FAULTS = frozenset({"E412"})
"""Codes of a run that say that a row is wrong: its image is broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a request may ask, and how rows are put together."""

    max_bytes: int = 4 << 20  # of a request's body
    max_rows: int = 256  # of a request
    max_seconds: float = 120.0  # that a request may wait for its answer, from when it was read
    max_connections: int = 512
    max_batch: int = 32  # rows that are computed at once
    max_wait: float = 0.005  # seconds that a row waits for others to share its batch
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


# --- answering


@dataclass(frozen=True, slots=True)
class _Asked:
    """Rows that wait, and where their answers go."""

    rows: Sequence[Row]
    answers: Future[list[dict[str, Any]]] = field(default_factory=Future)


class Worker:
    """One thread that answers all requests, so that none of them takes cores from another.

    `say` is told of failures that are not the request's. Raises RunError when the graph can't be loaded.
    """

    def __init__(self, served: Served, limits: Limits, say: Callable[[str], None] = lambda line: None) -> None:
        self._served, self._limits, self._say = served, limits, say
        self._queue: Queue[_Asked | None] = Queue()
        self._thread = Thread(target=self._work, name="answers", daemon=True)
        self._loaded: Future[None] = Future()
        self._thread.start()
        self._loaded.result()

    def submit(self, rows: Sequence[Row]) -> Future[list[dict[str, Any]]]:
        """The answers, when they are there: each row with its prediction. The future raises RequestError.

        Raises RequestError 503 when too many requests wait, 500 when nothing answers them any more.
        """
        self.check()
        if self._queue.qsize() >= self._limits.max_waiting:
            raise RequestError(503, "E623", f"{self._limits.max_waiting:,} requests wait already", "ask again later")
        asked = _Asked(rows)
        self._queue.put(asked)
        return asked.answers

    @property
    def is_alive(self) -> bool:
        """Whether its thread has not ended."""
        return self._thread.is_alive()

    def check(self) -> None:
        """Nothing while requests are answered. Raises RequestError 500."""
        if not self.is_alive:
            raise RequestError(500, "E499", "the thread that answers has ended", "start the server again")

    def close(self, seconds: float | None = None) -> None:
        """Returns when everything that was submitted is answered; nothing may be submitted afterwards.

        After `seconds` at the latest: what nobody waits for any more is not worth more.
        """
        self._queue.put(None)
        self._thread.join(seconds)

    def _work(self) -> None:
        try:
            self._served.load()  # here: MLX runs a function in the thread that opened it
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits for it
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(None)
        while (first := self._queue.get()) is not None:
            self._answer(self._gathered(first))

    def _gathered(self, first: _Asked) -> list[_Asked]:
        """A request and those that come soon enough to share its batch."""
        gathered, num_rows = [first], len(first.rows)
        end = time.monotonic() + self._limits.max_wait
        while num_rows < self._limits.max_batch:
            try:
                more = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                break
            if more is None:
                self._queue.put(None)  # the end, which is to be found again after this batch
                break
            gathered.append(more)
            num_rows += len(more.rows)
        return gathered

    def _answer(self, gathered: Sequence[_Asked]) -> None:
        """Sets the answers of each request, or what is wrong with it: none fails by another's fault."""
        read: list[tuple[_Asked, list[Any]]] = []
        for asked in gathered:
            if asked.answers.set_running_or_notify_cancel():
                try:
                    read.append((asked, [self._read(number, row) for number, row in enumerate(asked.rows)]))
                except RequestError as error:
                    asked.answers.set_exception(error)
        try:
            self._answer_read(read)
        except Exception:  # noqa: BLE001 - whatever it was, it is found again and said of the request that it is of
            for asked, rows in read:
                self._answer_alone(asked, rows)

    def _read(self, number: int, row: Row) -> Any:
        try:
            return self._served.read(row)
        except BadValueError as error:
            if error.column in row:
                raise RequestError(422, "E622", error.message, row=number, key=error.column) from None
            hint = f"{did_you_mean(error.column, row, noun='it has')} (rename it)"
            message = f'the row has no column "{error.column}"'
            raise RequestError(422, "E622", message, hint, row=number, key=error.column) from None
        except Exception as error:
            raise self._failure(error, number) from error

    def _answer_read(self, read: Sequence[tuple[_Asked, list[Any]]]) -> None:
        rows = [row for _, own in read for row in own]
        numbers = [number for _, own in read for number in range(len(own))]
        predictions = self._served.predict(rows, numbers, self._limits.max_batch)
        given = [row for asked, _ in read for row in asked.rows]
        answers = iter([{**row, "prediction": each} for row, each in zip(given, predictions, strict=True)])
        for asked, own in read:  # from here on nothing fails: no request is answered twice
            asked.answers.set_result([*islice(answers, len(own))])

    def _answer_alone(self, asked: _Asked, rows: list[Any]) -> None:
        """The answers to one request; where they fail, the error names the first row that does."""
        try:
            self._answer_read([(asked, rows)])
        except Exception as error:  # noqa: BLE001 - the server's edge
            asked.answers.set_exception(self._blamed(rows, error))

    def _blamed(self, rows: Sequence[Any], error: Exception) -> RequestError:
        for number, row in enumerate(rows):
            try:
                self._served.predict([row], [number], 1)
            except Exception as found:  # noqa: BLE001 - the server's edge
                return self._failure(found, number)
        return self._failure(error, None)

    def _failure(self, error: Exception, number: int | None) -> RequestError:
        """An error as the endpoint says it: a row's fault, or ours, which is told here too."""
        from compiler.templates import TemplateError

        if isinstance(error, RunError) and error.code in _ROWS_FAULTS:
            return RequestError(422, error.code, error.message, error.hint, row=number)
        if isinstance(error, TemplateError):
            return RequestError(422, "E622", str(error), "give the row other values", row=number)
        code, message = "E499", f"{type(error).__name__}: {error}"
        if isinstance(error, RunError):
            code, message = error.code, error.message
        self._say(f"error[{code}]: {message}")
        return RequestError(500, code, message, "the request is not at fault; the server goes on", row=number)
