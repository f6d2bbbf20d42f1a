"""Which column of a file looks like which role, told from its first rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from compiler.data.texts import BadValueError, label_of, number_of, text_of

LOOKED_AT = 1000  # rows
_MOST_LABELS = 50
_SHOWN = 3  # values


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What the first rows of a file have in a column; empty strings and null are not counted."""

    name: str
    filled: int  # rows with a value
    texts: int  # rows whose value is a text
    labels: int  # rows whose value can be a label
    numbers: int  # rows whose value is a number
    mean_length: float  # characters of the texts
    distinct: int
    examples: tuple[str, ...]  # the first few distinct values

    @property
    def is_text(self) -> bool:
        """Whether most values are texts."""
        return 2 * self.texts > self.filled

    @property
    def is_number(self) -> bool:
        """Whether most values are numbers, and not all the same."""
        return self.distinct > 1 and 2 * self.numbers > self.filled

    @property
    def is_label(self) -> bool:
        """Whether most values can be labels, and they repeat as labels do."""
        few = 2 <= self.distinct <= max(2, min(_MOST_LABELS, self.filled // 2))
        return few and 2 * self.labels > self.filled


def columns_in(rows: Iterable[Mapping[str, object]]) -> tuple[Column, ...]:
    """The columns of the first rows, in order."""
    first = list(islice(rows, LOOKED_AT))
    names = dict.fromkeys(name for row in first for name in row)
    return tuple(_column(name, first) for name in names)


def _column(name: str, rows: Sequence[Mapping[str, object]]) -> Column:
    filled = [row for row in rows if row.get(name) not in (None, "")]
    texts = _readable(lambda row: text_of(row, name), filled)
    labels = _readable(lambda row: label_of(row, name, None), filled)
    distinct = tuple(dict.fromkeys(str(row[name]) for row in filled))
    return Column(
        name=name,
        filled=len(filled),
        texts=len(texts),
        labels=len(labels),
        numbers=len(_readable(lambda row: str(number_of(row, name)), filled)),
        mean_length=sum(map(len, texts)) / max(1, len(texts)),
        distinct=len(distinct),
        examples=distinct[:_SHOWN],
    )


def _readable(read: Callable[[Mapping[str, object]], str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    found = []
    for row in rows:
        with suppress(BadValueError):
            found.append(read(row))
    return found


def guess(role: str, columns: Sequence[Column], taken: Collection[str | None] = ()) -> str | None:
    """The column that looks most like a role, but for those that are taken; None when none does."""
    free = [column for column in columns if column.name not in taken]
    match role:
        case "text":
            texts = [column for column in free if column.is_text]
            return max(texts, key=lambda column: column.mean_length).name if texts else None
        case "label":
            labels = [column for column in free if column.is_label]
            return min(labels, key=lambda column: (column.distinct, column.mean_length)).name if labels else None
        case "target":
            numbers = [column for column in free if column.is_number]
            return max(numbers, key=lambda column: column.distinct).name if numbers else None
        case _:
            return None
