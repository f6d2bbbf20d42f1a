"""What a server does with requests that come at once: a small model of ours instead of a bundle, and no network."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from compiler.data.texts import BadValueError, text_of
from runtimes.errors import RunError
from runtimes.serving.requests import Limits, RequestError, Worker, rows_asked


@dataclass
class Reverser:
    """Answers a text with its letters reversed; it can be held, and some texts break it."""

    text_column: str | None = "word"
    required: tuple[str, ...] = ("word",)
    calls: list[tuple[list[str], list[int], int]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)
    busy: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def load(self) -> None:
        if self.text_column == "gone":
            raise RunError("E604", "the graph does not load", "export it again")

    def read(self, row: Mapping[str, object]) -> str:
        return text_of(row, "word")

    def predict(self, rows: Sequence[str], numbers: Sequence[int], batch_size: int) -> list[dict[str, str]]:
        self.calls.append(([*rows], [*numbers], batch_size))
        self.busy.set()
        assert self.open.wait(30)
        if "broken image" in rows:
            raise RunError("E412", "a broken image", "put a whole one there")
        if "divide" in rows:
            return [{"text": str(1 / 0)}]
        if "lost" in rows:
            return []
        return [{"text": row[::-1]} for row in rows]

    def facts(self) -> dict[str, Any]:
        return {"name": "reverser"}


def words(*values: object) -> list[dict[str, object]]:
    return [{"word": value} for value in values]


def wrong(body: bytes, served: Reverser | None = None, limits: Limits | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        rows_asked(body, served or Reverser(), limits or Limits())
    return caught.value


# --- what is asked


def test_rows_or_a_text_are_asked() -> None:
    assert rows_asked(b'{"rows": [{"word": "a", "id": 1}]}', Reverser(), Limits()) == ({"word": "a", "id": 1},)
    assert rows_asked('{"text": "é"}'.encode(), Reverser(), Limits()) == ({"word": "é"},)


@pytest.mark.parametrize(
    ("body", "status", "message", "key"),
    [
        (b"{", 400, "the body is not JSON: Expecting property name", None),
        (b"\xff", 400, "the body is not UTF-8", None),
        (b"[" * 100_000, 400, "the body is nested too deeply", None),
        (
            b'{"rows": [{"word": ' + b"[" * 62 + b"]" * 62 + b"}]}",
            400,
            "64 lists and objects may be in one another",
            None,
        ),
        (b'{"rows": [{"word": ' + b'{"a": ' * 500 + b"1" + b"}" * 500 + b"}]}", 400, "nested too deeply", None),
        (b'{"text": NaN}', 400, "NaN is not a number in JSON", None),
        (b'{"rows": [' + b"9" * 5000 + b"]}", 400, "the body is not JSON: Exceeds the limit", None),
        (b'{"rows": [{"word": "a", "id": 1e999}]}', 400, "1e999 is more than a number of 64 bits can be", None),
        (b'{"text": "a", "text": "b"}', 400, 'the key "text" stands twice', None),
        (b"[]", 422, "a request is a JSON object", None),
        (b"{}", 422, 'a request has "rows" or "text"', None),
        (b'{"text": "a", "rows": []}', 422, 'a request has "rows" or "text"', None),
        (b'{"row": []}', 422, 'unknown key "row"', "row"),
        (b'{"' + b"k" * 1000 + b'": []}', 422, f'unknown key "{"k" * 40}…"', "k" * 40 + "…"),
        (b'{"text": 3}', 422, "expected a text", "text"),
        (b'{"rows": {}}', 422, "expected a list of rows", "rows"),
        (b'{"rows": []}', 422, "there are no rows", "rows"),
    ],
)
def test_a_request_that_is_none_says_why(body: bytes, status: int, message: str, key: str | None) -> None:
    found = wrong(body)
    assert (found.status, found.code, found.key) == (status, "E621", key)
    assert message in found.message


def test_lists_and_objects_of_a_row_may_be_in_one_another() -> None:
    nested = b"[" * 61 + b"]" * 61
    [row] = rows_asked(b'{"rows": [{"word": "a", "more": ' + nested + b"}]}", Reverser(), Limits())
    assert json.dumps(row["more"]).encode() == nested


def test_a_key_that_stands_twice_among_many_is_found_at_once() -> None:
    members = ", ".join(f'"k{number}": 1' for number in [*range(100_000), 99_999])
    start = time.monotonic()
    assert wrong(f'{{"rows": [{{{members}}}]}}'.encode()).message == 'the key "k99999" stands twice in an object'
    assert time.monotonic() - start < 10  # seconds; two and a half minutes when each was compared with all


def test_a_row_that_is_no_object_is_named_by_its_number() -> None:
    assert wrong(b'{"rows": [{}, 3]}').to_json() == {
        "error": {
            "status": 422,
            "code": "E621",
            "message": "a row is an object",
            "hint": 'send {"rows": [{"column": value, ...}, ...]} or {"text": "..."}',
            "row": 1,
        }
    }


def test_more_rows_than_a_request_may_have_are_refused() -> None:
    body = json.dumps({"rows": words("a", "b", "c")}).encode()
    assert wrong(body, limits=Limits(max_rows=2)).message == "3 rows; a request may have 2"
    assert len(rows_asked(body, Reverser(), Limits(max_rows=3))) == 3


def test_a_text_alone_is_refused_where_rows_have_more() -> None:
    found = wrong(b'{"text": "a"}', Reverser(text_column=None, required=("question", "context")))
    assert found.message == 'a text alone is no row here: rows have "question", "context"'


# --- answers


def test_requests_that_wait_together_share_a_batch_and_each_gets_its_own_answers() -> None:
    served = Reverser()
    served.open.clear()
    worker = Worker(served, Limits(max_batch=8, max_wait=0.0))
    first = worker.submit(words("held"))
    assert served.busy.wait(30)
    others = [worker.submit(words(f"a{number}", f"b{number}")) for number in range(3)]
    served.open.set()
    worker.close()
    assert [answer["prediction"]["text"] for answer in first.result(0)] == ["dleh"]
    for number, other in enumerate(others):
        assert other.result(0) == [
            {"word": f"a{number}", "prediction": {"text": f"{number}a"}},
            {"word": f"b{number}", "prediction": {"text": f"{number}b"}},
        ]
    # what is drawn is seeded by the number in the request, whoever shares the batch
    assert served.calls[1] == (["a0", "b0", "a1", "b1", "a2", "b2"], [0, 1, 0, 1, 0, 1], 8)


def test_a_batch_takes_no_more_requests_than_fill_it() -> None:
    served = Reverser()
    served.open.clear()
    worker = Worker(served, Limits(max_batch=2, max_wait=0.0))
    worker.submit(words("held"))
    assert served.busy.wait(30)
    for number in range(5):
        worker.submit(words(str(number)))
    served.open.set()
    worker.close()
    assert [rows for rows, _, _ in served.calls] == [["held"], ["0", "1"], ["2", "3"], ["4"]]


def test_a_request_waits_a_while_for_others_to_share_its_batch() -> None:
    served = Reverser()
    worker = Worker(served, Limits(max_batch=2, max_wait=30.0))
    found = [worker.submit(words("a")), worker.submit(words("b"))]
    assert [answers.result(25)[0]["prediction"]["text"] for answers in found] == ["a", "b"]
    assert len(served.calls) == 1
    worker.close()


def test_a_request_that_fails_takes_no_other_with_it() -> None:
    served = Reverser()
    said: list[str] = []
    served.open.clear()
    worker = Worker(served, Limits(max_wait=0.0), said.append)
    worker.submit(words("held"))
    assert served.busy.wait(30)
    asked = [words("fine"), words("ok", "broken image", "ok"), words("a", 3), words("divide"), words("too")]
    found = [worker.submit(rows) for rows in asked]
    missing = worker.submit([{"wort": "a"}])
    served.open.set()
    worker.close()
    assert found[0].result(0)[0]["prediction"] == {"text": "enif"}
    assert found[4].result(0)[0]["prediction"] == {"text": "oot"}
    errors = [answers.exception(0) for answers in (found[1], found[2], missing, found[3])]
    assert all(isinstance(error, RequestError) for error in errors)
    assert [(e.status, e.code, e.row, e.key) for e in errors if isinstance(e, RequestError)] == [
        (422, "E412", 1, None),
        (422, "E622", 1, "word"),
        (422, "E622", 0, "word"),
        (500, "E499", 0, None),
    ]
    assert said == ["error[E499]: ZeroDivisionError: division by zero"]  # a row's fault is none of ours


def test_answers_of_which_one_is_lost_are_a_fault_and_the_next_request_is_answered() -> None:
    served = Reverser()
    served.open.clear()
    worker = Worker(served, Limits(max_wait=0.0))
    worker.submit(words("held"))
    assert served.busy.wait(30)
    found = [worker.submit(words("fine")), worker.submit(words("lost")), worker.submit(words("too"))]
    served.open.set()
    worker.close()
    assert [found[place].result(0)[0]["prediction"]["text"] for place in (0, 2)] == ["enif", "oot"]
    error = found[1].exception(0)
    assert isinstance(error, RequestError)
    assert (error.status, error.code) == (500, "E499")


def test_a_worker_that_has_ended_says_so_instead_of_waiting() -> None:
    worker = Worker(Reverser(), Limits())
    worker.check()
    worker.close()
    with pytest.raises(RequestError, match="the thread that answers has ended"):
        worker.submit(words("a"))


def test_a_request_that_nobody_waits_for_any_more_is_not_computed() -> None:
    served = Reverser()
    served.open.clear()
    worker = Worker(served, Limits(max_wait=0.0))
    worker.submit(words("held"))
    assert served.busy.wait(30)
    assert worker.submit(words("gone")).cancel()
    kept = worker.submit(words("kept"))
    served.open.set()
    worker.close()
    assert kept.result(0)
    assert [rows for rows, _, _ in served.calls] == [["held"], ["kept"]]


def test_more_requests_than_may_wait_are_refused() -> None:
    served = Reverser()
    served.open.clear()
    worker = Worker(served, Limits(max_wait=0.0, max_waiting=2))
    worker.submit(words("held"))
    assert served.busy.wait(30)
    waiting = [worker.submit(words("a")), worker.submit(words("b"))]
    with pytest.raises(RequestError) as caught:
        worker.submit(words("c"))
    assert (caught.value.status, caught.value.code) == (503, "E623")
    served.open.set()
    worker.close()
    assert all(answers.result(0) for answers in waiting)


def test_a_graph_that_does_not_load_is_said_at_once() -> None:
    with pytest.raises(RunError, match="does not load"):
        Worker(Reverser(text_column="gone"), Limits())


def test_a_missing_column_is_named_with_the_nearest_one() -> None:
    worker = Worker(Reverser(), Limits())
    error = worker.submit([{"wrod": "a"}]).exception(30)
    worker.close()
    assert isinstance(error, RequestError)
    assert error.message == 'the row has no column "word"'
    assert error.hint == 'did you mean "wrod"? (rename it)'


def test_a_bad_value_is_what_the_row_reader_says_it_is() -> None:
    with pytest.raises(BadValueError) as caught:
        Reverser().read({"word": 3})
    worker = Worker(Reverser(), Limits())
    error = worker.submit([{"word": 3}]).exception(30)
    worker.close()
    assert isinstance(error, RequestError)
    assert error.message == caught.value.message
