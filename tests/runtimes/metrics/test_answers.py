from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.metrics.answers import answer_exact, answer_f1, answer_words, exact_match, valid_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("Paris", "  Paris\n", 1.0),
        ("New  York", "New\tYork", 1.0),
        ("caf\u00e9", "cafe\u0301", 1.0),
        ("Paris", "paris", 0.0),
        ("Paris", "Paris.", 0.0),
        ("", " ", 1.0),
    ],
)
def test_an_exact_match_differs_in_spaces_alone(reference: str, answer: str, expected: float) -> None:
    assert exact_match(reference, answer) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The U.S. Navy's an-chor", ["us", "navys", "anchor"]),
        ("a theme, THE end", ["theme", "end"]),
        ("$1,000 — “about”", ["1000", "about"]),
        ("《红楼梦》的作者是曹雪芹。", list("红楼梦的作者是曹雪芹")),
        ("在iPhone 15上", ["在", "iphone", "15", "上"]),
    ],
)
def test_answers_are_words_without_case_marks_and_articles(text: str, words: list[str]) -> None:
    assert answer_words(text) == words


# By hand: shared words * 2 over the words of both.
@pytest.mark.parametrize(
    ("reference", "answer", "exact", "f1"),
    [
        ("the Denver Broncos", "Denver Broncos!", 1.0, 1.0),
        ("Denver Broncos", "the Denver team", 0.0, 2 / 4),
        ("very very good", "very good good", 0.0, 4 / 6),
        ("曹雪芹", "曹雪", 0.0, 4 / 5),
        ("Paris", "London", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "Paris", 0.0, 0.0),
        ("Paris", "", 0.0, 0.0),
        ("The", "", 1.0, 1.0),
    ],
)
def test_answers_are_scored_as_squad_does(reference: str, answer: str, exact: float, f1: float) -> None:
    assert answer_exact(reference, answer) == exact
    assert answer_f1(reference, answer) == pytest.approx(f1, abs=1e-12)


@given(st.text(), st.text())
def test_what_is_exact_shares_every_word(one: str, other: str) -> None:
    assert answer_exact(one, one) == answer_f1(one, one) == exact_match(one, one) == 1.0
    assert exact_match(one, other) <= answer_exact(one, other) <= answer_f1(one, other) <= 1.0


@given(json_values)
def test_what_json_writes_is_valid_and_equal_to_itself(value) -> None:
    text, again = json.dumps({"key": value}), json.dumps({"key": value}, indent=2, ensure_ascii=False)
    assert valid_json("", json.dumps(value)) == 1.0
    assert valid_json(text, again, ("key",)) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{",
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": NaN}',
        "-Infinity",
        '{"a": 1} done',
        '```json\n{"a": 1}\n```',
        "01",
        "[" * 100_000,
    ],
)
def test_what_is_not_json_alone_is_not_valid(answer: str) -> None:
    assert valid_json("{}", answer) == 0.0


def test_a_number_of_many_digits_is_valid() -> None:
    assert valid_json("", "1" * 5000) == 1.0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"city": "Bern", "zip": 3000.0, "more": 1}', 1.0),
        ('{"zip": 3000, "city": "Bern"}', 1.0),
        ('{"city": "bern", "zip": 3000}', 0.0),
        ('{"city": "Bern"}', 0.0),
        ('{"city": "Bern", "zip": "3000"}', 0.0),
        ('["city", "zip"]', 0.0),
        ('"city zip"', 0.0),
    ],
)
def test_keys_have_the_references_values(answer: str, expected: float) -> None:
    assert valid_json('{"city": "Bern", "zip": 3000, "area": 51.6}', answer, ("city", "zip")) == expected


def test_a_key_that_the_reference_lacks_need_only_be_there() -> None:
    assert valid_json("not JSON", '{"city": null}', ("city",)) == 1.0
    assert valid_json("{}", '{"town": null}', ("city",)) == 0.0


def test_true_is_not_one() -> None:
    assert valid_json('{"a": [true]}', '{"a": [1]}', ("a",)) == 0.0
    assert valid_json('{"a": {"b": 1}}', '{"a": {"b": 1.0}}', ("a",)) == 1.0
