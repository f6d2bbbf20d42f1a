"""Which column of a file looks like what a task reads, told from its first rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar, assert_never

from compiler import tasks
from compiler.data.answers import are_answers
from compiler.data.readers import names_image
from compiler.data.texts import LONGEST_TEXT, BadValueError, label_of, number_of, spans_of, text_of, tokens_of
from compiler.tasks import Kind, Task

T = TypeVar("T")
LOOKED_AT = 1000  # rows
_MOST_LABELS = 50
_MOST_TAGS = 200
_SHOWN = 3  # values


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What the first rows of a file have in a column; empty strings and null are not counted."""

    name: str
    filled: int  # rows with a value
    texts: int  # rows whose value is a text
    labels: int  # rows whose value can be a label
    images: int  # rows whose value is a text that names an image
    numbers: int  # rows whose value is a number
    fractions: int  # rows whose value is a number that is not whole
    counts: bool  # whether the values are the numbers of the rows
    mean_length: float  # characters of the texts
    distinct: int
    examples: tuple[str, ...]  # the first few distinct values
    words: int = 0  # rows whose value is a list of words
    distinct_words: int = 0
    num_words: int = 0  # of all rows
    spans: int = 0  # rows whose value is a list of spans
    answers: int = 0  # rows whose value is answers, each with its start

    @property
    def is_text(self) -> bool:
        """Whether most values are texts, other than those that name an image."""
        return 2 * self.texts > self.filled and not self.is_image

    @property
    def is_image(self) -> bool:
        """Whether most values name an image."""
        return 2 * self.images > self.filled

    @property
    def is_number(self) -> bool:
        """Whether most values are numbers, not all the same, and not those of the rows."""
        return self.distinct > 1 and 2 * self.numbers > self.filled and not self.counts

    @property
    def is_label(self) -> bool:
        """Whether most values can be labels, and they repeat as labels do."""
        few = 2 <= self.distinct <= max(2, min(_MOST_LABELS, self.filled // 2))
        return few and 2 * self.labels > self.filled and not (self.is_number and self.fractions)

    @property
    def is_words(self) -> bool:
        """Whether most values are lists of words."""
        return 2 * self.words > self.filled

    @property
    def is_tags(self) -> bool:
        """Whether they are, and the words are few and repeat as tags do."""
        few = 2 <= self.distinct_words <= max(2, min(_MOST_TAGS, self.num_words // 2))
        return self.is_words and few

    @property
    def is_spans(self) -> bool:
        """Whether most values are lists of spans."""
        return 2 * self.spans > self.filled

    @property
    def is_answers(self) -> bool:
        """Whether most values are answers with their starts."""
        return 2 * self.answers > self.filled


def columns_in(rows: Iterable[Mapping[str, object]]) -> tuple[Column, ...]:
    """The columns of the first rows, in order."""
    first = list(islice(rows, LOOKED_AT))
    names = dict.fromkeys(name for row in first for name in row)
    return tuple(_column(name, first) for name in names)


def _column(name: str, rows: Sequence[Mapping[str, object]]) -> Column:
    filled = [row for row in rows if row.get(name) not in (None, "")]
    texts = _readable(lambda row: text_of(row, name), filled)
    labels = _readable(lambda row: label_of(row, name, None), filled)
    numbers = [float(number) for number in _readable(lambda row: str(number_of(row, name)), filled)]
    distinct = tuple(dict.fromkeys(str(row[name]) for row in filled))
    words = _readable(lambda row: tokens_of(row, name), filled)
    each = [word for row in words for word in row]
    return Column(
        name=name,
        filled=len(filled),
        texts=len(texts),
        labels=len(labels),
        images=sum(names_image(text) for text in texts),
        numbers=len(numbers),
        fractions=sum(not number.is_integer() for number in numbers),
        counts=len(numbers) > 1 and all(after == before + 1 for before, after in pairwise(numbers)),
        mean_length=sum(map(len, texts)) / max(1, len(texts)),
        distinct=len(distinct),
        examples=distinct[:_SHOWN],
        words=len(words),
        distinct_words=len(set(each)),
        num_words=len(each),
        spans=len(_readable(lambda row: spans_of(row, name, LONGEST_TEXT), filled)),
        answers=sum(are_answers(row, name) for row in filled),
    )


def _readable(read: Callable[[Mapping[str, object]], T], rows: Sequence[Mapping[str, object]]) -> list[T]:
    found = []
    for row in rows:
        with suppress(BadValueError):
            found.append(read(row))
    return found


def looks_like(kind: Kind, column: Column) -> bool:
    """Whether a column looks as if such values stood in it."""
    match kind:
        case "text":
            return column.is_text
        case "label":
            return column.is_label
        case "number":
            return column.is_number
        case "image":
            return column.is_image
        case "tokens":
            return column.is_words
        case "tags":
            return column.is_tags
        case "spans":
            return column.is_spans
        case "answers":
            return column.is_answers
        case "conversation":
            return False  # such columns are known by their names
        case _:
            assert_never(kind)


def guess(kind: Kind, columns: Sequence[Column], taken: Collection[str | None] = ()) -> str | None:
    """The column that looks most like a kind, but for those that are taken; None when none does."""
    alike = [column for column in columns if column.name not in taken and looks_like(kind, column)]
    return max(alike, key=lambda column: _likeness(kind, column)).name if alike else None


def _likeness(kind: Kind, column: Column) -> tuple[float, float]:
    """By what columns of a kind are compared: long texts, few short labels, numbers with fractions and many values."""
    match kind:
        case "text":
            return column.mean_length, 0.0
        case "label":
            return -column.distinct, -column.mean_length
        case "number":
            return bool(column.fractions), column.distinct
        case "image":
            return column.distinct, 0.0
        case "tokens":
            return column.distinct_words, 0.0
        case "tags":
            return -column.distinct_words, 0.0
        case "spans":
            return column.spans, 0.0
        case "answers":
            return column.answers, 0.0
        case "conversation":
            return 0.0, 0.0
        case _:
            assert_never(kind)


def guess_roles(
    roles: Mapping[str, Kind], columns: Sequence[Column], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The column of each role: those that are given, and for the rest what looks like it; each column once."""
    found = dict(given or {})
    # Last: labels are texts as well, and tags are words.
    for role, kind in sorted(roles.items(), key=lambda item: item[1] in ("text", "tokens")):
        best = guess(kind, columns, found.values()) if role not in found else None
        if best is not None:
            found[role] = best
    return found


def other_task(task: Task, role: str, column: Column) -> str:
    """A hint that names the task whose answers look like a column, where a task's own don't; else nothing."""
    if role != tasks.answer_of(task) or looks_like(tasks.roles_of(task)[role], column):
        return ""
    for name, other in tasks.TASKS.items():
        answer = tasks.answer_of(other)
        kind = tasks.module_of(other).COLUMNS[answer] if answer is not None else "text"
        if kind != "text" and looks_like(kind, column):  # any text could be one that is to be written
            return f'the task "{name}" reads such a column, as its {answer}'
    return ""
