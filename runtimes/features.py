"""Token arrays of a split on disk: written in one pass over its rows, read through memory maps."""

# N = rows, S = tokens of all rows

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from compiler.files import write_json
from compiler.typed import read

_ROWS_AT_ONCE = 1_000
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFacts:
    """What stands in a folder of features."""

    num_rows: int
    num_tokens: int
    longest: int  # tokens of the longest row, after truncation
    truncated: int  # rows that were cut
    max_length: int
    pad_token_id: int


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of a row, special ones included, and the number of its label."""

    tokens: npt.NDArray[np.int32]
    type_ids: npt.NDArray[np.int8] | None
    label: int


class Features:
    """The rows of a split: `tokens` of all rows one after another, row i at offsets[i] to offsets[i+1]."""

    def __init__(self, folder: Path) -> None:
        self.facts = read(FeatureFacts, json.loads((folder / "facts.json").read_text(encoding="utf-8")))
        self.tokens: npt.NDArray[np.int32] = _mapped(folder / "tokens.bin", np.int32)  # [S]
        self.offsets: npt.NDArray[np.int64] = np.load(folder / "offsets.npy", mmap_mode="r")  # [N + 1]
        self.labels: npt.NDArray[np.int64] = np.load(folder / "labels.npy", mmap_mode="r")  # [N]
        types = folder / "type_ids.bin"
        self.type_ids: npt.NDArray[np.int8] | None = _mapped(types, np.int8) if types.exists() else None  # [S]

    def __len__(self) -> int:
        return self.facts.num_rows

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """[N] tokens of each row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> Row:
        """One row."""
        place = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        types = None if self.type_ids is None else self.type_ids[place]
        return Row(self.tokens[place], types, int(self.labels[index]))


def write_features(
    rows: Iterable[tuple[str, int]], tokenizer_file: Path, folder: Path, *, max_length: int, pad_token_id: int
) -> FeatureFacts:
    """Writes the features of (text, label number) rows. Holds 16 bytes a row; tokens go to disk as they come."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(tokenizer_file, max_length)
    lengths, labels = array("q"), array("q")
    truncated = 0
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "type_ids.bin").open("wb") as types:
        for portion in _portions(rows, _ROWS_AT_ONCE):
            encodings = tokenizer.encode_batch_fast([text for text, _ in portion])
            labels.extend(label for _, label in portion)
            lengths.extend(len(encoding) for encoding in encodings)
            truncated += sum(bool(encoding.overflowing) for encoding in encodings)
            _append(encodings, tokens, types)
    _drop_zeros(folder / "type_ids.bin")
    offsets = _write_index(folder, lengths, labels)
    facts = FeatureFacts(
        num_rows=len(labels),
        num_tokens=int(offsets[-1]),
        longest=max(lengths, default=0),
        truncated=truncated,
        max_length=max_length,
        pad_token_id=pad_token_id,
    )
    write_json(folder / "facts.json", dataclasses.asdict(facts))
    return facts


def _tokenizer(file: Path, max_length: int) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()  # the file may have a padding and a truncation of its own
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _append(encodings: list[Encoding], tokens: IO[bytes], types: IO[bytes]) -> None:
    for encoding in encodings:
        tokens.write(np.asarray(encoding.ids, np.int32).tobytes())
        types.write(np.asarray(encoding.type_ids, np.int8).tobytes())


def _drop_zeros(file: Path) -> None:
    """Removes a file that says nothing: most tasks have one text, whose type ids are all zero."""
    with file.open("rb") as content:
        used = any(any(block) for block in iter(lambda: content.read(1 << 20), b""))
    if not used:
        file.unlink()


def _write_index(folder: Path, lengths: array[int], labels: array[int]) -> npt.NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.frombuffer(lengths, np.int64) if lengths else (), out=offsets[1:])
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "labels.npy", np.frombuffer(labels, np.int64) if labels else np.zeros(0, np.int64))
    return offsets


def _mapped(file: Path, dtype: type[T]) -> npt.NDArray[T]:  # type: ignore[type-var]
    return np.memmap(file, dtype, "r") if file.stat().st_size else np.zeros(0, dtype)


def _portions(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(rows)
    while portion := list(islice(iterator, size)):
        yield portion
