"""What is read in a request, and what is said of one that can't be."""

from __future__ import annotations

import json
import time

import pytest

from runtimes.serving.requests import Limits, RequestError, rows_asked
from tests.reverser import Reverser, words


def wrong(body: bytes, served: Reverser | None = None, limits: Limits | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        rows_asked(body, served or Reverser(), limits or Limits())
    return caught.value


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
