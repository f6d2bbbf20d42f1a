"""Answers that are parts of a text: the forms in which data sets have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compiler.data.texts import BadValueError, found, text_of
from compiler.diagnostics import short

ANSWERED = "answered"
_FORMS = '{"text": ["..."], "answer_start": [0]} or [{"text": "...", "start": 0}]'


def accepted_of(values: Mapping[str, object], column: str, context: str) -> list[dict[str, Any]]:
    """The answers in a column, each its text and start; none where it is empty. Raises BadValueError.

    As SQuAD's files have them, `{"text": [...], "answer_start": [...]}`, or a list with an object for each.
    """
    match values.get(column):
        case {"text": list() | tuple() as texts, "answer_start": list() | tuple() as starts}:
            if len(texts) != len(starts):
                raise BadValueError(column, f"expected a start for each text, found {len(texts)} and {len(starts)}")
            pairs: Sequence[tuple[object, object]] = list(zip(texts, starts, strict=True))
        case list() | tuple() as items:
            pairs = [_pair(item, number, column) for number, item in enumerate(items)]
        case _:
            raise BadValueError(column, f"expected answers, {_FORMS}, found {found(values, column)}")
    return [_answer(text, start, column, column, context) for text, start in pairs]


def single_of(values: Mapping[str, object], column: str, start_column: str, context: str) -> list[dict[str, Any]]:
    """The answer in a column, its start in another one; none where it is empty. Raises BadValueError."""
    if values.get(column) in (None, ""):
        return []
    start = values.get(start_column)
    if isinstance(start, str) and start.strip().isascii() and start.strip().isdecimal():
        start = int(start)
    if isinstance(start, float) and start.is_integer():
        start = int(start)
    if type(start) is not int:
        raise BadValueError(
            start_column, f"expected the character that the answer starts at, found {found(values, start_column)}"
        )
    return [_answer(values[column], start, column, start_column, context)]


def are_answers(values: Mapping[str, object], column: str) -> bool:
    """Whether a column has answers by its form, one at least."""
    match values.get(column):
        case {"text": list() | tuple(), "answer_start": list() | tuple()}:
            return True
        case [{"text": str(), "start": int()}, *_] | [{"text": str(), "answer_start": int()}, *_]:
            return True
        case _:
            return False


def _pair(item: object, number: int, column: str) -> tuple[object, object]:
    match item:
        case {"text": text, "start": start} | {"text": text, "answer_start": start}:
            return text, start
        case _:
            raise BadValueError(column, f'answer {number}: expected {{"text": "...", "start": 0}}')


def _answer(text: object, start: object, column: str, start_column: str, context: str) -> dict[str, Any]:
    """An answer that stands where it says. Raises BadValueError."""
    answer = text_of({column: text}, column)
    if type(start) is not int:
        message = f"expected the character that an answer starts at, found {found({column: start}, column)}"
        raise BadValueError(start_column, message)
    if not answer.strip():
        raise BadValueError(column, "an answer has no character; leave it out where there is none")
    there = context[start : start + len(answer)] if start >= 0 else ""
    if there != answer:
        raise BadValueError(start_column, f'the answer "{short(answer)}" {_place(answer, start, there, context)}')
    return {"text": answer, "start": start}


def _place(answer: str, start: int, there: str, context: str) -> str:
    """Where an answer is that does not stand where it says."""
    instead = f'there is "{short(there)}"' if there else f"the context has {len(context):,} characters"
    places = [place for place in range(len(context)) if context.startswith(answer, place)]
    nearest = min(places, key=lambda place: abs(place - start), default=None)
    told = "it is nowhere in the context" if nearest is None else f"it starts at {nearest}"
    return f"is not at {start} of the context: {instead}, and {told}"
