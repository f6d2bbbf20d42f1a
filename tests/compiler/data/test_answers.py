"""Answers in the forms that data sets have them, and what is said of those that don't stand where they say."""

from __future__ import annotations

from typing import Any

import pytest

from compiler.data.answers import accepted_of, are_answers, single_of
from compiler.data.texts import BadValueError

CONTEXT = "Write to ann@shop.example, or to bob@shop.example."
ANN, BOB = {"text": "ann@shop.example", "start": 9}, {"text": "bob@shop.example", "start": 33}


@pytest.mark.parametrize(
    "answers",
    [
        {"text": [ANN["text"], BOB["text"]], "answer_start": [9, 33]},
        [ANN, BOB],
        [{"text": answer["text"], "answer_start": answer["start"], "answer_id": 7} for answer in (ANN, BOB)],
    ],
)
def test_every_form_is_read_as_texts_with_their_starts(answers: Any) -> None:
    assert accepted_of({"a": answers}, "a", CONTEXT) == [ANN, BOB]
    assert are_answers({"a": answers}, "a")


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, []])
def test_no_answer_is_an_answer(answers: Any) -> None:
    assert accepted_of({"a": answers}, "a", CONTEXT) == []


@pytest.mark.parametrize("start", [9, "9", 9.0])
def test_an_answer_and_its_start_may_have_a_column_each(start: Any) -> None:
    assert single_of({"a": ANN["text"], "at": start}, "a", "at", CONTEXT) == [ANN]


@pytest.mark.parametrize("answer", ["", None])
def test_an_empty_column_is_no_answer(answer: Any) -> None:
    assert single_of({"a": answer, "at": None}, "a", "at", CONTEXT) == []


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"text": ANN["text"], "start": 10}],
            'is not at 10 of the context: there is "nn@shop.example,", and it starts at 9',
        ),
        (
            {"text": ["eve"], "answer_start": [3]},
            'the answer "eve" is not at 3 of the context: there is "te ", and it is nowhere in the context',
        ),
        (
            [{"text": "shop", "start": 99}],
            'the answer "shop" is not at 99 of the context: the context has 50 characters, and it starts at 37',
        ),
        ([{"text": "ann", "start": -1}], 'the answer "ann" is not at -1 of the context'),
        ([{"text": "ann", "start": "9"}], "expected the character that an answer starts at, found the text"),
        ([{"text": "ann", "start": True}], "expected the character that an answer starts at, found true"),
        ([{"text": " ", "start": 5}], "an answer has no character; leave it out where there is none"),
        ({"text": ["ann"], "answer_start": []}, "expected a start for each text, found 1 and 0"),
        (["ann"], 'answer 0: expected {"text": "...", "start": 0}'),
        ("ann", 'expected answers, {"text": ["..."], "answer_start": [0]} or [{"text": "...", "start": 0}], found'),
    ],
)
def test_what_is_no_answer_is_told(answers: Any, message: str) -> None:
    with pytest.raises(BadValueError) as caught:
        accepted_of({"a": answers}, "a", CONTEXT)
    assert message in str(caught.value)


def test_a_start_that_is_no_number_is_told_of_its_own_column() -> None:
    with pytest.raises(BadValueError, match='the column "at": expected the character that the answer starts at'):
        single_of({"a": "ann", "at": "nine"}, "a", "at", CONTEXT)
    with pytest.raises(BadValueError, match='the column "at": the answer "ann" is not at 3'):
        single_of({"a": "ann", "at": 3}, "a", "at", CONTEXT)
