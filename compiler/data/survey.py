"""The rows of a recipe, read once: how many, how long, with which answers, and which stand twice."""

# Shape suffixes: N rows of a split's files.

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compiler import tasks
from compiler.data.guesses import Column, columns_in, guess, other_task
from compiler.data.images import Contents, check_image, content_of, folder_of, image_of, is_inline, shown
from compiler.data.locate import DataFile, SplitFiles, columns, declared, locate, unreadable
from compiler.data.readers import DataError, Row, read_rows
from compiler.data.remembered import RowLengths
from compiler.data.splits import Rows, select
from compiler.data.texts import BadValueError, UnknownLabelError
from compiler.diagnostics import Diagnostic, RecipeError, counted, did_you_mean, short
from compiler.facts import DataFacts, Overlap, RowPlace, SplitFacts, SplitName
from compiler.functions import is_function
from compiler.hub import Sources
from compiler.plan import SplitRows
from compiler.project import Project, recipe_folder
from compiler.recipe import Onnx, Recipe, Split
from compiler.scripts import Tokenization, tokenization_of
from compiler.tasks import Example, Task
from compiler.tokens import start_ids
from compiler.typed import to_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LISTED = 5  # findings of one kind; the rest is counted
REFERENCES = 1000  # texts of a split that tell whether metrics count words or characters
_ROWS_AT_ONCE = 1024
_CHARACTERS_AT_ONCE = 1_000_000  # a tokenizer takes about 50 bytes for each


def survey(recipe: Recipe, tokenizer_file: Path | None, sources: Sources, allowed: tuple[Path, ...]) -> DataFacts:
    """The facts of a recipe's rows. Tokens are counted where there is a tokenizer. Raises RecipeError."""
    located = locate(recipe, sources, allowed)
    project = Project.of(recipe_folder(recipe), allowed)
    reader = _Reader(
        recipe,
        _row_lengths(recipe, tokenizer_file, sources.cache),
        project,
        _target_lengths(recipe, tokenizer_file, sources.cache),
        partial(_tokenizer, recipe, tokenizer_file) if tokenizer_file is not None else None,
    )
    for name, split in declared(recipe).items():
        if split.fraction is None:
            reader.read(name, located[name].files)
    found = [*reader.faults.findings(recipe), *_unknown_labels(recipe, reader.unknown)]
    if found:
        raise RecipeError(found)
    for lengths in (reader.lengths, reader.target_lengths):
        if lengths is not None:
            lengths.remember()
    return _facts(recipe, located, reader)


@dataclass(slots=True)
class _Table:
    """What is kept of each row of a split's files: 28 bytes, and 4 where the model is to write a text."""

    files: tuple[DataFile, ...]
    starts: list[int] = field(default_factory=list)  # the row that each file starts with
    lines: array[int] = field(default_factory=lambda: array("q"))
    targets: array[float] = field(default_factory=lambda: array("d"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    target_lengths: array[int] = field(default_factory=lambda: array("i"))
    digests: array[int] = field(default_factory=lambda: array("Q"))

    def place(self, row: int) -> RowPlace:
        """Where a row stands, once every row of the files was kept."""
        file = bisect_right(self.starts, row) - 1
        return self.files[file].place(row - self.starts[file], self.lines[row])


@dataclass(slots=True)
class _BadValues:
    """The rows of a file that have a bad value in a column: the first few with what is wrong, and how many."""

    first: list[tuple[RowPlace, BadValueError]] = field(default_factory=list)
    num_rows: int = 0
    last: int = -1  # its number: a file that two splits name is read twice


class _Faults:
    """Findings about rows: of a column that is bad in most rows of a file, or of the first few bad rows."""

    def __init__(self) -> None:
        self._bad: dict[tuple[DataFile, str], _BadValues] = {}
        self._broken: list[Diagnostic] = []

    def broken(self, error: DataError) -> None:
        """A file that could not be read to its end."""
        self._broken.append(unreadable(error))

    def bad_value(self, data: DataFile, row: Row, error: BadValueError) -> None:
        """A row with a value that is not what its column is for."""
        bad = self._bad.setdefault((data, error.column), _BadValues())
        if row.number > bad.last:
            bad.last = row.number
            bad.num_rows += 1
            if len(bad.first) < LISTED:
                bad.first.append((data.place(row.number, row.line), error))

    def findings(self, recipe: Recipe) -> Iterator[Diagnostic]:
        """All of them."""
        yield from self._broken
        for (data, column), bad in self._bad.items():
            there = columns_in(_values(data))
            num_rows = sum(1 for _ in _values(data))
            if 2 * bad.num_rows > num_rows or _is_for_another_task(recipe, column, there):
                yield _bad_column(recipe, there, column, bad, num_rows)
            else:
                yield from _bad_rows(bad)


def _values(data: DataFile) -> Iterator[Mapping[str, object]]:
    """The rows of a file, up to the first that can't be read."""
    with suppress(DataError):
        yield from (row.values for row in read_rows(data.path, data.file.format))


def _bad_rows(bad: _BadValues) -> Iterator[Diagnostic]:
    more = bad.num_rows - len(bad.first)
    for number, (place, error) in enumerate(bad.first, start=1):
        message = f"{error}" if place.line else f"{error} in row {place.row}"
        if more and number == len(bad.first):
            message += f"; {more:,} more row{'s of the file are' if more > 1 else ' of the file is'} like this"
        hint = "remove the row or fill it in; columns are named in /dataset/columns"
        yield Diagnostic(code="R313", at=place.at, message=message, hint=hint)


def _is_for_another_task(recipe: Recipe, column: str, there: Sequence[Column]) -> bool:
    """Whether numbers stand in a label's column of which those with a fraction can't be labels, however few."""
    role = _role_of(recipe, column)
    found = next((other for other in there if other.name == column and other.fractions), None)
    kind = tasks.roles_of(recipe.task)[role]
    return kind == "label" and found is not None and bool(other_task(recipe.task, role, found))


def _role_of(recipe: Recipe, column: str) -> str:
    return next(role for role, name in columns(recipe).items() if name == column)


def _bad_column(recipe: Recipe, there: Sequence[Column], column: str, bad: _BadValues, num_rows: int) -> Diagnostic:
    """The finding that a column is not what the task reads it as, with what looks as if it were."""
    role = _role_of(recipe, column)
    place, error = bad.first[0]
    message = (
        f'{bad.num_rows:,} of {num_rows:,} rows have no {role} in the column "{column}": {error.message}, first {place}'
    )
    best = _best_column(recipe, role, there)
    hint = f'the column "{best}" looks like the {role}' if best else f"its columns: {', '.join(c.name for c in there)}"
    pointer = tasks.pointer_of(recipe.task, role)
    if recipe.wrote(pointer) is None:
        pointer, written = "/dataset", f'"{best}"' if best else "..."
        hint += f'; say which it is: "columns": {{"{role}": {written}}}'
    if other := next((other_task(recipe.task, role, found) for found in there if found.name == column), ""):
        hint = f"{other}; or {hint}" if best else other
    return recipe.finding("R313", pointer, message, hint)


def _best_column(recipe: Recipe, role: str, there: Sequence[Column]) -> str | None:
    """The column that looks most like a role, but for its own and those that other roles have with good reason."""
    roles = columns(recipe)
    named = [other.name for other in there if other.name in roles.values() and other.is_label]
    return guess(tasks.roles_of(recipe.task)[role], there, taken=[roles[role], *named])


@dataclass(slots=True)
class _Unknown:
    """A label that is not among those declared: these, where it stands first, and in how many rows."""

    labels: tuple[str, ...]
    first: RowPlace
    num_rows: int = 0


@dataclass(slots=True)
class _Waiting:
    """Rows whose tokens are still to be counted."""

    texts: list[tuple[str, ...]] = field(default_factory=list)
    started: list[bool] = field(default_factory=list)  # whether the tokenizer's start stands in front
    written: list[str] = field(default_factory=list)
    num_characters: int = 0

    def add(self, texts: tuple[str, ...], written: str, *, started: bool) -> None:
        """A row more."""
        self.texts.append(texts)
        self.started.append(started)
        self.written.append(written)
        self.num_characters += sum(map(len, (*texts, written)))

    @property
    def is_full(self) -> bool:
        """Whether they are to be counted now."""
        return len(self.texts) == _ROWS_AT_ONCE or self.num_characters > _CHARACTERS_AT_ONCE


class _Reader:
    """Reads splits into tables."""

    def __init__(
        self,
        recipe: Recipe,
        lengths: RowLengths | None,
        project: Project,
        target_lengths: RowLengths | None = None,
        tokenizer: Callable[[], Tokenizer] | None = None,
    ) -> None:
        self.task, self.columns = recipe.task, columns(recipe)
        self.image = tasks.image_column(recipe.task, self.columns)
        self.project = project
        self.images: dict[DataFile, str] = {}  # the digest of the images that a file's rows name
        self.rows = tasks.module_of(recipe.task).reader(recipe.task, self.columns)
        self.lengths, self.target_lengths = lengths, target_lengths
        self.written = tasks.written_role(self.task)
        self.tokenizer = cache(tokenizer) if tokenizer is not None else None
        self.prompts = _splits_of_prompts(recipe)
        self.tables: dict[SplitName, _Table] = {}
        self.unknown: dict[str, _Unknown] = {}
        self.faults = _Faults()
        written = tasks.module_of(recipe.task).WRITTEN
        self.measures_texts = any(metric.type in written for metric in recipe.metrics)
        self.references: dict[SplitName, list[str]] = {}  # the first of each split

    def read(self, name: SplitName, files: tuple[DataFile, ...]) -> None:
        """Reads the files of a split into its table."""
        table = self.tables[name] = _Table(files)
        for data in files:
            table.starts.append(len(table.targets))
            try:
                self._read_file(data, name, table)
            except DataError as error:
                self.faults.broken(error)

    def _read_file(self, data: DataFile, name: SplitName, table: _Table) -> None:
        prompted = self.tokenizer if name in self.prompts else None  # where texts are written for the rows
        waiting, contents = _Waiting(), Contents()
        self._begin(data)
        for row in read_rows(data.path, data.file.format):
            try:
                example = self.rows.read(row.values)
                image = self._image(data, row) if self.image is not None else b""
                texts = tasks.texts_of(self.task, example.row) if self.image is None else ()
                if prompted is not None:
                    tasks.check_prompt(self.task, example.row, prompted)
            except UnknownLabelError as error:
                first = data.place(row.number, row.line)
                self.unknown.setdefault(error.name, _Unknown(error.labels, first)).num_rows += 1
                continue
            except BadValueError as error:
                self.faults.bad_value(data, row, error)
                continue
            table.lines.append(row.line)
            table.targets.append(example.target)
            if self.image is not None:
                own = contents.add(str(row.values[self.image]), image)
                table.digests.append(int.from_bytes(own[:8], "little"))
                continue
            self._refer(name, example)
            table.digests.append(digest(texts))
            written = example.row[self.written] if self.written is not None else ""
            waiting.add(texts, written, started=tasks.is_started(self.task, example.row))
            if waiting.is_full:
                self._count(waiting, table)
                waiting = _Waiting()
        self._count(waiting, table)
        if self.image is not None:
            self.images[data] = contents.sha256

    def _begin(self, data: DataFile) -> None:
        """Says to those who count tokens which file comes."""
        if self.lengths is not None:
            self.lengths.begin(data, _read_as(self.task, self.columns))
        if self.target_lengths is not None and self.written is not None:
            self.target_lengths.begin(data, (*_read_as(self.task, self.columns), self.columns[self.written]))

    def _refer(self, name: SplitName, example: Example) -> None:
        """Keeps the text that a row should be answered with, of the first rows of a split."""
        references = self.references.setdefault(name, [])
        if self.measures_texts and len(references) < REFERENCES:
            references.append(tasks.reference_of(self.task, example.row))

    def _image(self, data: DataFile, row: Row) -> bytes:
        """The bytes of a row's image, which can be read and lies in the project. Raises BadValueError."""
        assert self.image is not None, "only called where a column holds images"
        image, folder = image_of(row.values, self.image), folder_of(data.path, data.file.format)
        try:
            if not is_inline(image) and not self.project.contains(folder / image):
                raise ValueError(f"{shown(image)} is outside of the project {self.project.root}")
            content = content_of(image, folder)
            check_image(content, image)
        except ValueError as error:
            raise BadValueError(self.image, str(error)) from None
        return content

    def _count(self, waiting: _Waiting, table: _Table) -> None:
        if self.lengths is not None:
            table.lengths.extend(self.lengths.count(waiting.texts, waiting.started))
        if self.target_lengths is not None:
            table.target_lengths.extend(self.target_lengths.count([(text,) for text in waiting.written]))


def _splits_of_prompts(recipe: Recipe) -> frozenset[SplitName]:
    """The splits in whose files rows stand for which texts are written, in the evaluation or by the gate."""
    module = tasks.module_of(recipe.task)
    measured = any(metric.type in module.WRITTEN for metric in recipe.metrics)
    if not module.WRITES or not (
        measured or any(isinstance(export, Onnx) or is_function(export, recipe.task) for export in recipe.export)
    ):
        return frozenset()
    held_out = ((name, split) for name, split in declared(recipe).items() if name != "train")
    return frozenset("train" if split.fraction is not None else name for name, split in held_out)


def _read_as(task: Task, named: Mapping[str, str]) -> tuple[str, ...]:
    """What decides which texts of a file are counted."""
    read = tuple(named[role] for role in tasks.module_of(task).INPUTS if role in named)
    return (*read, json.dumps(to_json(task), sort_keys=True))


def digest(texts: Sequence[str]) -> int:
    """A number of 64 bits that two rows share when their texts differ at most in case and spaces."""
    folded = "\n".join(" ".join(text.casefold().split()) for text in texts)
    return int.from_bytes(hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _row_lengths(recipe: Recipe, tokenizer_file: Path | None, cache: Path | None) -> RowLengths | None:
    if tokenizer_file is None or tasks.reads(recipe.task) != "text":
        return None
    special_tokens = tasks.module_of(recipe.task).SPECIAL_TOKENS
    return RowLengths(
        lambda: _tokenizer(recipe, tokenizer_file),
        tokenizer_file,
        cache,
        special_tokens=special_tokens,
        start=start_ids,
    )


def _target_lengths(recipe: Recipe, tokenizer_file: Path | None, cache: Path | None) -> RowLengths | None:
    """What counts the tokens of texts that the model is to write; None where it writes none."""
    if tokenizer_file is None or tasks.written_role(recipe.task) is None:
        return None

    def length(ids: Sequence[int]) -> int:
        return len(tasks.written_ids(recipe.task, ids))

    return RowLengths(lambda: _tokenizer(recipe, tokenizer_file), tokenizer_file, cache, length=length)


def _tokenizer(recipe: Recipe, path: Path) -> Tokenizer:
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
        count = f"{counted(rows.num_rows, 'row')} {'has' if rows.num_rows == 1 else 'have'}"
        message = f'the label "{short(name)}" is not declared, but {count} it, first {rows.first}{more}'
        hint = did_you_mean(short(name), map(short, rows.labels), noun="declared")
        yield recipe.finding("R312", "/task/labels", message, hint)


def _facts(recipe: Recipe, located: Mapping[SplitName, SplitFiles], reader: _Reader) -> DataFacts:
    targets = {name: np.asarray(table.targets, dtype=np.float64) for name, table in reader.tables.items()}
    stratifies = tasks.module_of(recipe.task).STRATIFIES
    rules = [
        _rule(name, split, located[name], reader.images, stratifies=stratifies)
        for name, split in declared(recipe).items()
    ]
    chosen = select(rules, {name: reader.rows.classes(found) for name, found in targets.items()})
    splits: list[SplitFacts] = []
    for rule in rules:
        source: SplitName = "train" if rule.fraction > 0 else rule.split
        rows = chosen[rule.split]
        splits.append(
            SplitFacts(
                rows=replace(rule, num_rows=len(rows)),
                label_counts=reader.rows.label_counts(targets[source][rows]),
                lengths=_histogram(reader.tables[source].lengths, rows) if reader.lengths is not None else None,
                target_lengths=_histogram(reader.tables[source].target_lengths, rows)
                if reader.target_lengths is not None
                else None,
                values=reader.rows.values(targets[source][rows]),
                digests=np.asarray(reader.tables[source].digests, np.uint64)[rows].tobytes(),
            )
        )
    overlaps = tuple(_overlaps(rules, reader.tables, chosen))
    return DataFacts(
        splits=tuple(splits), labels=reader.rows.labels, overlaps=overlaps, references=_references(rules, reader)
    )


def _references(rules: Sequence[SplitRows], reader: _Reader) -> Tokenization | None:
    """How BLEU parts the texts of held-out rows; of the file that they are drawn from, where they are a share of it."""
    held_out = next((rule for name in ("test", "validation") for rule in rules if rule.split == name), None)
    if held_out is None or not reader.measures_texts:
        return None
    found = reader.references.get("train" if held_out.fraction > 0 else held_out.split)
    return tokenization_of(found) if found else None  # without rows, which is said elsewhere


def _rule(
    name: SplitName, split: Split, located: SplitFiles, images: Mapping[DataFile, str], *, stratifies: bool
) -> SplitRows:
    """What the plan says of a split, but for the number of its rows."""
    return SplitRows(
        split=name,
        files=tuple(replace(data.file, images=images.get(data, "")) for data in located.files),
        dataset=located.dataset,
        revision=located.revision,
        fraction=split.fraction or 0.0,
        stratify=stratifies and split.fraction is not None and split.stratify is not False,
        seed=split.seed or 0,
        rows=split.rows or 0,
        num_rows=0,
    )


def _histogram(lengths: array[int], rows: Rows) -> tuple[int, ...]:
    return tuple(np.bincount(np.asarray(lengths, dtype=np.int64)[rows]).tolist())


def _overlaps(
    rules: Iterable[SplitRows], tables: Mapping[SplitName, _Table], chosen: Mapping[str, Rows]
) -> Iterator[Overlap]:
    """The rows whose text or image stands in train as well, for each split that has some."""
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
