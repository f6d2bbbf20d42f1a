"""Columns of rows on their way to disk. What an interrupted writer left is kept, up to its last mark."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from compiler.files import write_json
from compiler.typed import read, to_json
from runtimes.rows.features import (
    FACTS,
    LABELS,
    NOTES,
    TOKENS,
    Column,
    FeatureFacts,
    LabelFacts,
    Portion,
    first_of,
    flat_values,
    offsets_of,
)

MARK = ".written.json"
_PORTIONS = 10  # from one mark to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far a folder is written: of each file the bytes that are on disk for sure."""

    portions: int = 0
    num_rows: int = 0
    truncated: int = 0  # of the rows
    truncated_labels: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)


class FeatureWriter:
    """Writes the columns of rows a portion at a time. Nothing of them is held."""

    def __init__(self, folder: Path, columns: Sequence[Column], files: Mapping[str, IO[bytes]], begun: Mark) -> None:
        self._folder, self._columns, self._files = folder, columns, files
        self._axes = tuple(dict.fromkeys(column.axis for column in columns if column.axis))
        self.portions, self._num_rows = begun.portions, begun.num_rows
        self._truncated, self._truncated_labels = begun.truncated, begun.truncated_labels

    def append(self, portion: Portion, lines: Mapping[str, Iterable[str]] | None = None) -> None:
        """Writes some rows. `lines`: what they add to text files beside the columns, by name."""
        for column in self._columns:
            self._files[_file_of(column)].write(flat_values(column, portion).tobytes())
        for axis in self._axes:
            lengths = np.fromiter(map(len, portion.ragged[first_of(self._columns, axis)]), np.int64)
            self._files[_lengths_of(axis)].write(lengths.tobytes())
        notes = (json.dumps(note, ensure_ascii=False) for note in portion.notes)
        for name, added in {NOTES: notes, **(lines or {})}.items():
            self._files[name].writelines(f"{line}\n".encode() for line in added)
        self.portions += 1
        self._num_rows += portion.num_rows
        self._truncated += portion.truncated
        self._truncated_labels += portion.truncated_labels
        if self.portions % _PORTIONS == 0:
            self.mark()

    def mark(self) -> None:
        """Makes what is written lasting: the next writer goes on from here."""
        self._sync()
        mark = Mark(
            portions=self.portions,
            num_rows=self._num_rows,
            truncated=self._truncated,
            truncated_labels=self._truncated_labels,
            sizes={name: file.tell() for name, file in self._files.items()},
        )
        write_json(self._folder / MARK, to_json(mark))

    def finish(self, *, max_length: int, pad_token_id: int, truncated: int = 0) -> FeatureFacts:
        """Ends the folder; its facts. `truncated`: rows that were cut before they came here."""
        self._sync()
        for file in self._files.values():
            file.close()
        if not (self._folder / NOTES).stat().st_size:
            (self._folder / NOTES).unlink()
        kept = [column for column in self._columns if not (column.optional and self._drops(column))]
        lengths = {axis: np.fromfile(self._folder / _lengths_of(axis), np.int64) for axis in self._axes}
        for axis, found in lengths.items():
            np.save(self._folder / f"{axis}.offsets.npy", offsets_of(found))
        tokens = lengths.get(TOKENS, np.zeros(0, np.int64))
        facts = FeatureFacts(
            num_rows=self._num_rows,
            num_tokens=int(tokens.sum()),
            longest=int(tokens.max(initial=0)),
            truncated=self._truncated + truncated,
            max_length=max_length,
            pad_token_id=pad_token_id,
            columns=tuple(kept),
            labels=_label_facts(lengths[LABELS], self._truncated_labels) if LABELS in lengths else None,
        )
        write_json(self._folder / FACTS, to_json(facts))
        for name in (MARK, *map(_lengths_of, self._axes)):
            (self._folder / name).unlink(missing_ok=True)
        return facts

    def _sync(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())

    def _drops(self, column: Column) -> bool:
        """Whether a column says nothing; then it is removed. Most tasks have one text, whose type ids are all zero."""
        path = self._folder / _file_of(column)
        with path.open("rb") as content:
            used = any(any(block) for block in iter(lambda: content.read(1 << 20), b""))
        if not used:
            path.unlink()
        return not used


@contextmanager
def feature_writer(folder: Path, columns: Sequence[Column], lines: Sequence[str] = ()) -> Iterator[FeatureWriter]:
    """A writer into a folder, which goes on after the portions that are marked there. `lines`: other text files."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = dict.fromkeys(column.axis for column in columns if column.axis)
    names = (*map(_file_of, columns), *map(_lengths_of, axes), NOTES, *lines)
    begun = _marked(folder, names)
    with ExitStack() as stack:
        files = {name: stack.enter_context(_opened(folder / name, begun.sizes.get(name, 0))) for name in names}
        yield FeatureWriter(folder, columns, files, begun)


def write_features(
    portions: Iterable[Portion],
    columns: Sequence[Column],
    folder: Path,
    *,
    max_length: int,
    pad_token_id: int,
    truncated: int = 0,
) -> FeatureFacts:
    """Writes the columns of some rows, all of them anew. `truncated`: rows that were cut before they came here."""
    (folder / MARK).unlink(missing_ok=True)
    with feature_writer(folder, columns) as writer:
        for portion in portions:
            writer.append(portion)
        return writer.finish(max_length=max_length, pad_token_id=pad_token_id, truncated=truncated)


def _marked(folder: Path, names: Sequence[str]) -> Mark:
    """The last mark of a folder; that nothing is written where it has none that fits the files."""
    try:
        mark = read(Mark, json.loads((folder / MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Mark()
    whole = all(
        (folder / name).is_file() and (folder / name).stat().st_size >= mark.sizes.get(name, 0) for name in names
    )
    return mark if whole and {*mark.sizes} == {*names} else Mark()


def _opened(path: Path, size: int) -> IO[bytes]:
    """A file to append to, without what stands in it after so many bytes."""
    file = path.open("r+b" if size else "wb")
    file.truncate(size)
    file.seek(size)
    return file


def _file_of(column: Column) -> str:
    return f"{column.name}.bin"


def _lengths_of(axis: str) -> str:
    return f"{axis}.lengths"


def _label_facts(lengths: npt.NDArray[np.int64], truncated: int) -> LabelFacts:
    return LabelFacts(num_tokens=int(lengths.sum()), longest=int(lengths.max(initial=0)), truncated=truncated)
