"""Answers to requests that come at once: their rows share batches in turn, on one thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Queue
from threading import Thread
from typing import Any

from compiler.data.texts import BadValueError
from compiler.diagnostics import did_you_mean
from runtimes.errors import RunError
from runtimes.serving.requests import Limits, RequestError, Row
from runtimes.serving.served import Served

_ROWS_FAULTS = frozenset({"E412"})
"""Codes of a run that say that a row is wrong: its image is broken."""


@dataclass(slots=True, eq=False)
class _Asked:
    """Rows that wait, and where their answers go once the last of them is there."""

    rows: Sequence[Row]
    answers: Future[list[dict[str, Any]]] = field(default_factory=Future)
    read: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # characters to tokenize
    left: deque[int] = field(default_factory=deque)  # rows to be computed: those of like length after one another
    predictions: dict[int, Any] = field(default_factory=dict)

    def forget(self, answers: Future[list[dict[str, Any]]]) -> None:
        """Lets go of the rows of a request that waits for nothing more: it may be long until its turn."""
        self.rows = ()

    def settle(self, error: RequestError | None = None) -> None:
        """Gives the answers, or says what is wrong; nobody may wait for them any more."""
        if not self.answers.set_running_or_notify_cancel():
            return
        if error is not None:
            self.answers.set_exception(error)
            return
        answers = [{**row, "prediction": self.predictions[place]} for place, row in enumerate(self.rows)]
        self.answers.set_result(answers)


_Batch = list[tuple[_Asked, list[int]]]
"""Requests, each with those of its rows that are computed now."""


class Worker:
    """One thread that answers all requests, so that none of them takes cores from another.

    `say` is told of failures that are not the request's. Raises RunError when the graph can't be loaded.
    """

    def __init__(self, served: Served, limits: Limits, say: Callable[[str], None] = lambda line: None) -> None:
        self._served, self._limits, self._say = served, limits, say
        self._queue: Queue[_Asked | None] = Queue()
        self._waiting: deque[_Asked] = deque()  # what is taken from the queue and has rows left, by whose turn it is
        self._closed = False
        self._thread = Thread(target=self._work, name="answers", daemon=True)
        self._loaded: Future[None] = Future()
        self._thread.start()
        self._loaded.result()

    def submit(self, rows: Sequence[Row]) -> Future[list[dict[str, Any]]]:
        """The answers, when they are there: each row with its prediction. The future raises RequestError.

        Once it is cancelled, no more of its rows are computed than the batch under way has. Raises RequestError 503
        when too many requests wait, 500 when nothing answers them any more.
        """
        self.check()
        if self._queue.qsize() + len(self._waiting) >= self._limits.max_waiting:
            raise RequestError(503, "E623", f"{self._limits.max_waiting:,} requests wait already", "ask again later")
        asked = _Asked(rows)
        asked.answers.add_done_callback(asked.forget)
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
        while self._waiting or not self._closed:
            self._gather()
            if batch := self._batch():
                self._answer(batch)

    # --- whose turn it is

    def _gather(self) -> None:
        """Takes what was submitted; where nothing waits, the next and those that come soon enough for its batch."""
        self._waiting = deque(asked for asked in self._waiting if not asked.answers.done())
        end = 0.0
        if not self._waiting and not self._closed:
            self._take(self._queue.get())
            end = time.monotonic() + self._limits.max_wait
        num_rows = sum(len(asked.left) for asked in self._waiting)
        while not self._closed:
            patience = end - time.monotonic() if num_rows < self._limits.max_batch else 0.0
            try:
                num_rows += self._take(self._queue.get(timeout=max(0.0, patience)))
            except Empty:
                break

    def _take(self, asked: _Asked | None) -> int:
        """Lets a request wait for its turn, unless it can't be read; the number of rows. None closes."""
        if asked is None:
            self._closed = True
            return 0
        try:
            for number, row in enumerate(asked.rows):
                found, size = self._read(number, row)
                asked.read.append(found)
                asked.sizes.append(size)
        except RequestError as error:
            asked.settle(error)
            return 0
        asked.left.extend(sorted(range(len(asked.read)), key=asked.sizes.__getitem__))
        self._waiting.append(asked)
        return len(asked.left)

    def _batch(self) -> _Batch:
        """The next rows. A request that has more of them than fit waits again, behind the others.

        Nothing of a request that nobody waits for.
        """
        batch: _Batch = []
        num_rows, size = 0, 0
        while self._waiting:
            asked, places = self._waiting.popleft(), []
            if asked.answers.done():
                continue
            while asked.left and self._fits(num_rows, size + asked.sizes[asked.left[0]]):
                places.append(asked.left.popleft())
                num_rows, size = num_rows + 1, size + asked.sizes[places[-1]]
            if places:
                batch.append((asked, places))
            if asked.left:
                (self._waiting.append if places else self._waiting.appendleft)(asked)
                break
        return batch

    def _fits(self, num_rows: int, size: int) -> bool:
        return num_rows == 0 or (num_rows < self._limits.max_batch and size <= self._limits.max_characters)

    # --- answers

    def _answer(self, batch: _Batch) -> None:
        """Computes rows, and settles the requests that have no more: none fails by another's fault."""
        try:
            self._compute(batch)
        except Exception:  # noqa: BLE001 - whatever it was, it is found again and said of the request that it is of
            for asked, places in batch:
                if not asked.answers.done():
                    self._answer_alone(asked, places)

    def _compute(self, batch: _Batch) -> None:
        rows = [asked.read[place] for asked, places in batch for place in places]
        numbers = [place for _, places in batch for place in places]
        predictions = self._served.predict(rows, numbers, self._limits.max_batch)
        computed = [(asked, place) for asked, places in batch for place in places]
        for (asked, place), prediction in zip(computed, [*predictions], strict=True):
            asked.predictions[place] = prediction
        for asked, _ in batch:  # from here on nothing fails: no request is answered twice
            if not asked.left:
                asked.settle()

    def _answer_alone(self, asked: _Asked, places: list[int]) -> None:
        """The answers to rows of one request; where they fail, the error names the first row that does."""
        try:
            self._compute([(asked, places)])
        except Exception as error:  # noqa: BLE001 - the server's edge
            asked.settle(self._blamed(asked, sorted(places), error))

    def _blamed(self, asked: _Asked, places: Sequence[int], error: Exception) -> RequestError:
        for place in places:
            try:
                self._served.predict([asked.read[place]], [place], 1)
            except Exception as found:  # noqa: BLE001 - the server's edge
                return self._failure(found, place)
        return self._failure(error, None)

    def _read(self, number: int, row: Row) -> tuple[Any, int]:
        """What is computed of a row, and its characters. Raises RequestError, also where they would hold up others."""
        found, size = self._found(number, row)
        if size > self._limits.max_characters:
            message = f"{size:,} characters to read; a row may have {self._limits.max_characters:,}"
            hint = "send less of it, or start the server with a larger --max-characters"
            raise RequestError(422, "E622", message, hint, row=number)
        return found, size

    def _found(self, number: int, row: Row) -> tuple[Any, int]:
        try:
            found = self._served.read(row)
            return found, self._served.size(found)
        except BadValueError as error:
            if error.column in row:
                raise RequestError(422, "E622", error.message, row=number, key=error.column) from None
            hint = f"{did_you_mean(error.column, row, noun='it has')} (rename it)"
            message = f'the row has no column "{error.column}"'
            raise RequestError(422, "E622", message, hint, row=number, key=error.column) from None
        except Exception as error:
            raise self._failure(error, number) from error

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
