"""Columns are told apart by what stands in them."""

from __future__ import annotations

from typing import Any

import pytest

from compiler import tasks
from compiler.data.guesses import LOOKED_AT, columns_in, guess, guess_roles, other_task
from compiler.tasks import Kind

REVIEWS = [f"a review of {number} words, more or less" for number in range(20)]
MOODS = ["good", "bad"] * 10


def columns(**values: list[Any]):
    return columns_in([dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)])


# Columns, and which of them looks like the text and like the label.
CASES = {
    "names-do-not-count": ({"label": REVIEWS, "text": MOODS}, "label", "text"),
    "numbers-as-labels": ({"review": REVIEWS, "stars": [1, 2, 3, 4, 5] * 4}, "review", "stars"),
    "numbers-as-text-of-csv": ({"id": [str(n) for n in range(20)], "review": REVIEWS, "stars": ["1", "2"] * 10},
                               "review", "stars"),
    "true-and-false": ({"review": REVIEWS, "liked": [True, False] * 10}, "review", "liked"),
    "halves-are-no-labels": ({"review": REVIEWS, "score": [0.5, 1.5] * 10}, "review", None),
    "lists-are-no-labels": ({"review": REVIEWS, "tags": [["a"], ["b"]] * 10}, "review", None),
    "one-value-is-no-label": ({"review": REVIEWS, "source": ["web"] * 20, "mood": MOODS}, "review", "mood"),
    "fewest-values-win": ({"review": REVIEWS, "genre": ["a", "b", "c", "d"] * 5, "mood": MOODS}, "review", "mood"),
    "one-column": ({"review": REVIEWS}, "review", None),
    "numbers-alone": ({"a": list(range(20)), "b": [0.5] * 20}, None, None),
    "some-are-missing": ({"review": [*REVIEWS[:15], *[None] * 5], "mood": [*MOODS[:15], *[""] * 5]}, "review", "mood"),
    "one-bad-value": ({"review": [3, *REVIEWS[1:]], "mood": [0.5, *MOODS[1:]]}, "review", "mood"),
    "no-values": ({"a": [None] * 20}, None, None),
}  # fmt: skip


@pytest.mark.parametrize(("values", "text", "label"), CASES.values(), ids=CASES)
def test_text_is_long_and_labels_are_few(values: dict[str, list[Any]], text: str | None, label: str | None) -> None:
    found = columns(**values)
    assert guess("label", found) == label
    assert guess("text", found, [label]) == text


def test_a_column_that_is_taken_is_not_guessed() -> None:
    found = columns(review=REVIEWS, title=[f"title {number}" for number in range(20)], mood=MOODS)
    assert guess("text", found, ["review"]) == "title"
    assert guess("label", found, ["mood"]) is None


# Columns, and which of them looks like the number to predict.
NUMBERS = {
    "fractions": ({"review": REVIEWS, "score": [n / 4 for n in range(20)]}, "score"),
    "before-whole-numbers": ({"price": [n * n for n in range(20)], "score": [n % 4 / 2 for n in range(20)]}, "score"),
    "as-text-of-csv": ({"review": REVIEWS, "score": [f"{n / 4}" for n in range(20)]}, "score"),
    "rows-that-are-counted": ({"id": list(range(20)), "review": REVIEWS}, None),
    "one-value": ({"score": [0.5] * 20}, None),
}


@pytest.mark.parametrize(("values", "number"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_differ_and_do_not_count_the_rows(values: dict[str, list[Any]], number: str | None) -> None:
    assert guess("number", columns(**values)) == number


def test_half_steps_are_no_labels_though_most_are_whole() -> None:
    found = columns(score=[1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5] * 2)
    assert (guess("label", found), guess("number", found)) == (None, "score")


def test_roles_get_a_column_each_and_those_that_are_given_stay() -> None:
    found = columns(review=REVIEWS, title=[f"title {number}" for number in range(20)], mood=MOODS)
    roles: dict[str, Kind] = {"text": "text", "label": "label"}
    assert guess_roles(roles, found) == {"text": "review", "label": "mood"}
    assert guess_roles(roles, found, {"text": "mood"}) == {"text": "mood"}


def test_lists_of_words_their_tags_and_spans_are_told_apart() -> None:
    words = [[f"w{number}", f"v{number}", "the"] for number in range(20)]
    tags = [["O", "B-x", "I-x"]] * 20
    spans = [[{"start": 0, "end": 3, "label": "x"}], []] * 10
    found = columns(id=list(range(20)), a=words, b=tags, c=spans, review=REVIEWS)
    roles: dict[str, Kind] = {"tokens": "tokens", "tags": "tags", "text": "text", "spans": "spans"}
    assert guess_roles(roles, found) == {"tokens": "a", "tags": "b", "text": "review", "spans": "c"}
    assert [guess(kind, columns(review=REVIEWS, mood=MOODS)) for kind in ("tokens", "tags", "spans")] == [None] * 3
    assert guess("tags", columns(a=words)) is None


def test_a_column_of_another_task_names_it() -> None:
    [score, mood] = columns(score=[n / 4 for n in range(20)], mood=MOODS)
    classification, regression = tasks.TASKS["text-classification"], tasks.TASKS["text-regression"]
    assert other_task(classification, "label", score) == 'the task "text-regression" reads such a column, as its target'
    assert other_task(regression, "target", mood) == 'the task "text-classification" reads such a column, as its label'
    assert [other_task(classification, "label", mood), other_task(classification, "text", score)] == ["", ""]


def test_a_column_is_described_by_its_values() -> None:
    [column] = columns(mood=["good", "bad", "", None, "good", "odd", "so"])
    assert (column.filled, column.texts, column.labels, column.distinct) == (5, 5, 5, 4)
    assert (column.mean_length, column.examples) == (16 / 5, ("good", "bad", "odd"))


def test_only_the_first_rows_are_looked_at() -> None:
    rows = ({"text": "a"} if number < LOOKED_AT else 1 / 0 for number in range(LOOKED_AT + 1))
    [column] = columns_in(rows)  # type: ignore[arg-type]
    assert column.filled == LOOKED_AT
