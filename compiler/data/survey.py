"""The rows of a recipe, read once: how many, how long, with which answers, and which stand twice."""

# Shape suffixes: N rows of a split's files.

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compiler import tasks
from compiler.data.locate import DataFile, SplitFiles, columns, declared, locate, unreadable
from compiler.data.readers import DataError, Row, read_rows
from compiler.data.splits import Rows, select
from compiler.data.texts import BadValueError, UnknownLabelError
from compiler.diagnostics import Diagnostic, RecipeError, did_you_mean
from compiler.facts import DataFacts, Overlap, RowPlace, SplitFacts, SplitName
from compiler.hub import Sources
from compiler.plan import SplitRows
from compiler.recipe import Recipe, Split

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LISTED = 5  # findings of one kind; the rest is counted
_ROWS_AT_ONCE = 1024
_CHARACTERS_AT_ONCE = 1_000_000  # a tokenizer takes about 50 bytes for each


def survey(recipe: Recipe, tokenizer_file: Path | None, sources: Sources, allowed: tuple[Path, ...]) -> DataFacts:
    """The facts of a recipe's rows. Tokens are counted where there is a tokenizer. Raises RecipeError."""
    located = locate(recipe, sources, allowed)
    reader = _Reader(recipe, _tokenizer(recipe, tokenizer_file))
    for name, split in declared(recipe).items():
        if split.fraction is None:
            reader.read(name, located[name].files)
    found = [*reader.faults.findings(), *_unknown_labels(recipe, reader.unknown)]
    if found:
        raise RecipeError(found)
    return _facts(recipe, located, reader)


@dataclass(slots=True)
class _Table:
    """What is kept of each row of a split's files: 28 bytes."""

    files: tuple[DataFile, ...]
    starts: list[int] = field(default_factory=list)  # the row that each file starts with
    lines: array[int] = field(default_factory=lambda: array("q"))
    targets: array[float] = field(default_factory=lambda: array("d"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    digests: array[int] = field(default_factory=lambda: array("Q"))

    def place(self, row: int) -> RowPlace:
        """Where a row stands, once every row of the files was kept."""
        file = bisect_right(self.starts, row) - 1
        return self.files[file].place(row - self.starts[file], self.lines[row])


class _Faults:
    """Findings about rows: the first few of each column and file, and how many more there are."""

    def __init__(self) -> None:
        self._listed: dict[tuple[str, Path, str], list[Diagnostic]] = {}
        self._counts: dict[tuple[str, Path, str], int] = {}
        self._broken: list[Diagnostic] = []

    def broken(self, error: DataError) -> None:
        """A file that could not be read to its end."""
        self._broken.append(unreadable(error))

    def bad_value(self, data: DataFile, row: Row, error: BadValueError) -> None:
        """A row with a value that is not what its column is for."""
        key = ("R313", data.path, error.column)
        self._counts[key] = self._counts.get(key, 0) + 1
        listed = self._listed.setdefault(key, [])
        if len(listed) < LISTED:
            place = data.place(row.number, row.line)
            where = "" if row.line else f" in row {row.number}"
            hint = "remove the row or fill it in; columns are named in /dataset/columns"
            listed.append(Diagnostic(code="R313", at=place.at, message=f"{error}{where}", hint=hint))

    def findings(self) -> Iterator[Diagnostic]:
        """All of them."""
        yield from self._broken
        for key, listed in self._listed.items():
            more = self._counts[key] - len(listed)
            yield from listed[:-1] if more else listed
            if more:
                yield replace(listed[-1], message=f"{listed[-1].message}; {more} more rows of the file are like this")


@dataclass(slots=True)
class _Unknown:
    """A label that is not among those declared: these, where it stands first, and in how many rows."""

    labels: tuple[str, ...]
    first: RowPlace
    num_rows: int = 0


class _Reader:
    """Reads splits into tables."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer | None) -> None:
        module = tasks.module_of(recipe.task)
        self.rows, self.texts = module.reader(recipe.task, columns(recipe)), module.texts
        self.tokenizer = tokenizer
        self.tables: dict[SplitName, _Table] = {}
        self.unknown: dict[str, _Unknown] = {}
        self.faults = _Faults()

    def read(self, name: SplitName, files: tuple[DataFile, ...]) -> None:
        """Reads the files of a split into its table."""
        table = self.tables[name] = _Table(files)
        for data in files:
            table.starts.append(len(table.targets))
            try:
                self._read_file(data, table)
            except DataError as error:
                self.faults.broken(error)

    def _read_file(self, data: DataFile, table: _Table) -> None:
        waiting: list[tuple[str, ...]] = []
        num_characters = 0
        for row in read_rows(data.path, data.file.format):
            try:
                example = self.rows.read(row.values)
            except UnknownLabelError as error:
                first = data.place(row.number, row.line)
                self.unknown.setdefault(error.name, _Unknown(error.labels, first)).num_rows += 1
                continue
            except BadValueError as error:
                self.faults.bad_value(data, row, error)
                continue
            table.lines.append(row.line)
            table.targets.append(example.target)
            texts = self.texts(example.row)
            table.digests.append(digest(texts))
            waiting.append(texts)
            num_characters += sum(map(len, texts))
            if len(waiting) == _ROWS_AT_ONCE or num_characters > _CHARACTERS_AT_ONCE:
                self._count(waiting, table)
                num_characters = 0
        self._count(waiting, table)

    def _count(self, waiting: list[tuple[str, ...]], table: _Table) -> None:
        if self.tokenizer is not None:
            inputs = [texts if len(texts) == 2 else texts[0] for texts in waiting]
            table.lengths.extend(len(encoding) for encoding in self.tokenizer.encode_batch_fast(inputs))
        waiting.clear()


def digest(texts: Sequence[str]) -> int:
    """A number of 64 bits that two rows share when their texts differ at most in case and spaces."""
    folded = "\n".join(" ".join(text.casefold().split()) for text in texts)
    return int.from_bytes(hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _tokenizer(recipe: Recipe, path: Path | None) -> Tokenizer | None:
    if path is None:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises Exception itself
        message = f"tokenizer.json of the model {recipe.model.id} can't be read: {error}"
        hint = "save the tokenizer again"
        raise RecipeError([recipe.finding("R406", "/model/id", message, hint)]) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unknown_labels(recipe: Recipe, unknown: Mapping[str, _Unknown]) -> Iterator[Diagnostic]:
    """Every label in the rows is among those declared."""
    for number, (name, rows) in enumerate(unknown.items()):
        if number == LISTED:
            break
        more = f"; so do {len(unknown) - LISTED} more labels" if number == LISTED - 1 and len(unknown) > LISTED else ""
        count = f"{rows.num_rows:,} row{'' if rows.num_rows == 1 else 's'}"
        message = f'the label "{name}" is not declared, but {count} have it, first {rows.first}{more}'
        hint = did_you_mean(name, rows.labels, noun="declared")
        yield recipe.finding("R312", "/task/labels", message, hint)


def _facts(recipe: Recipe, located: Mapping[SplitName, SplitFiles], reader: _Reader) -> DataFacts:
    targets = {name: np.asarray(table.targets, dtype=np.float64) for name, table in reader.tables.items()}
    stratifies = tasks.module_of(recipe.task).STRATIFIES
    rules = [_rule(name, split, located[name], stratifies=stratifies) for name, split in declared(recipe).items()]
    chosen = select(rules, {name: reader.rows.classes(found) for name, found in targets.items()})
    splits: list[SplitFacts] = []
    for rule in rules:
        source: SplitName = "train" if rule.fraction > 0 else rule.split
        rows = chosen[rule.split]
        splits.append(
            SplitFacts(
                rows=replace(rule, num_rows=len(rows)),
                label_counts=reader.rows.label_counts(targets[source][rows]),
                lengths=_histogram(reader.tables[source], rows) if reader.tokenizer is not None else None,
                values=reader.rows.values(targets[source][rows]),
            )
        )
    overlaps = tuple(_overlaps(rules, reader.tables, chosen))
    return DataFacts(splits=tuple(splits), labels=reader.rows.labels, overlaps=overlaps)


def _rule(name: SplitName, split: Split, located: SplitFiles, *, stratifies: bool) -> SplitRows:
    """What the plan says of a split, but for the number of its rows."""
    return SplitRows(
        split=name,
        files=tuple(data.file for data in located.files),
        dataset=located.dataset,
        revision=located.revision,
        fraction=split.fraction or 0.0,
        stratify=stratifies and split.fraction is not None and split.stratify is not False,
        seed=split.seed or 0,
        rows=split.rows or 0,
        num_rows=0,
    )


def _histogram(table: _Table, rows: Rows) -> tuple[int, ...]:
    return tuple(np.bincount(np.asarray(table.lengths, dtype=np.int64)[rows]).tolist())


def _overlaps(
    rules: Iterable[SplitRows], tables: Mapping[SplitName, _Table], chosen: Mapping[str, Rows]
) -> Iterator[Overlap]:
    """The rows whose text stands in train as well, for each split that has some."""
    train = tables["train"]
    digests = np.asarray(train.digests, dtype=np.uint64)[chosen["train"]]
    known, first = np.unique(digests, return_index=True)
    for rule in rules:
        table = train if rule.fraction > 0 else tables[rule.split]
        rows = chosen[rule.split]
        own = np.asarray(table.digests, dtype=np.uint64)[rows]
        at = np.minimum(np.searchsorted(known, own), max(len(known) - 1, 0))
        twice = known[at] == own if len(known) else np.zeros(len(own), bool)
        if rule.split == "train":
            twice &= first[at] != np.arange(len(own))
        found = np.flatnonzero(twice)
        if len(found):
            pairs = [(rows[row], chosen["train"][first[at[row]]]) for row in found[:LISTED]]
            listed = tuple((table.place(int(row)), train.place(int(twin))) for row, twin in pairs)
            yield Overlap(split=rule.split, num_rows=len(found), first=listed)
