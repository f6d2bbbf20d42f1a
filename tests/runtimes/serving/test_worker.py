"""What a server does with requests that come at once: a small model of ours instead of a bundle, and no network."""

from __future__ import annotations

import gc
import weakref

import pytest

from compiler.data.texts import BadValueError
from runtimes.errors import RunError
from runtimes.serving.requests import Limits, RequestError
from runtimes.serving.worker import Worker
from tests.reverser import Reverser, words


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


def held(served: Reverser, limits: Limits) -> Worker:
    """A worker that computes until `served` is opened, so that what is submitted meanwhile waits together."""
    served.open.clear()
    worker = Worker(served, limits)
    worker.submit(words("held"))
    assert served.busy.wait(30)
    return worker


def test_a_request_of_many_rows_lets_others_in_between_its_batches() -> None:
    served = Reverser()
    worker = held(served, Limits(max_batch=2, max_wait=0.0))
    many, few = worker.submit(words("1", "2", "3", "4", "5")), worker.submit(words("few"))
    served.open.set()
    worker.close()
    assert [rows for rows, _, _ in served.calls] == [["held"], ["1", "2"], ["few", "3"], ["4", "5"]]
    assert [numbers for _, numbers, _ in served.calls[1:]] == [[0, 1], [0, 2], [3, 4]]
    assert [answer["prediction"]["text"] for answer in many.result(0)] == ["1", "2", "3", "4", "5"]
    assert [answer["prediction"]["text"] for answer in few.result(0)] == ["wef"]


def test_rows_of_like_length_share_a_batch_and_are_answered_in_their_order() -> None:
    served = Reverser()
    worker = Worker(served, Limits(max_batch=2, max_wait=0.0))
    answers = worker.submit(words("long one", "a", "longer one", "b"))
    worker.close()
    assert [rows for rows, _, _ in served.calls] == [["a", "b"], ["long one", "longer one"]]
    assert [answer["word"][::-1] for answer in answers.result(0)] == [
        answer["prediction"]["text"] for answer in answers.result(0)
    ]
    assert [answer["word"] for answer in answers.result(0)] == ["long one", "a", "longer one", "b"]


def test_a_batch_has_no_more_characters_than_a_row_may_have() -> None:
    served = Reverser()
    worker = held(served, Limits(max_wait=0.0, max_characters=10))
    found = [worker.submit(words(*each)) for each in (("a" * 6, "b" * 6), ("c" * 4,), ("d" * 10,), ("e",))]
    served.open.set()
    worker.close()
    assert all(answers.result(0) for answers in found)
    assert [rows for rows, _, _ in served.calls[1:]] == [["aaaaaa"], ["cccc"], ["d" * 10], ["e", "bbbbbb"]]


def test_a_row_with_too_many_characters_is_refused_before_anything_is_computed() -> None:
    served = Reverser()
    worker = Worker(served, Limits(max_characters=10))
    error = worker.submit(words("fine", "a" * 11)).exception(30)
    assert worker.submit(words("a" * 10)).result(30)
    worker.close()
    assert isinstance(error, RequestError)
    assert error.to_json()["error"] == {
        "status": 422,
        "code": "E622",
        "message": "11 characters to read; a row may have 10",
        "hint": "send less of it, or start the server with a larger --max-characters",
        "row": 1,
    }
    assert [rows for rows, _, _ in served.calls] == [["a" * 10]]


def test_of_a_request_that_is_given_up_the_rest_is_not_computed() -> None:
    served = Reverser()
    served.open.clear()
    worker = Worker(served, Limits(max_batch=2, max_wait=0.0))
    answers = worker.submit(words("1", "2", "3", "4"))
    assert served.busy.wait(30)
    assert answers.cancel()
    served.open.set()
    worker.close()
    assert [rows for rows, _, _ in served.calls] == [["1", "2"]]


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


class Weighed(dict[str, object]):
    """A row of which it can be told whether somebody keeps it."""


def test_a_request_that_is_given_up_is_not_kept_until_its_turn() -> None:
    served = Reverser()
    worker = held(served, Limits(max_wait=0.0))
    row = Weighed(word="gone")
    kept, answers = weakref.ref(row), worker.submit([row])
    del row
    assert kept() is not None
    assert answers.cancel()
    gc.collect()
    assert kept() is None
    served.open.set()
    worker.close()


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
