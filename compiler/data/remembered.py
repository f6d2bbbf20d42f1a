"""Row lengths in tokens, remembered between calls by the content of the data file and of tokenizer.json."""

# Shape suffixes: N rows of a file.

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from compiler import __version__
from compiler.data.locate import DataFile
from compiler.files import write_bytes
from compiler.hashes import sha256_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Lengths = npt.NDArray[np.int32]
_FOLDER = "lengths"
_FORM = 2  # raise it when what is remembered changes its meaning
_MOST = 64 * 2**20  # bytes of all that is remembered: 16 million rows; what was not used for longest goes first
_DIGEST = hashlib.sha256().digest_size  # bytes in front, by which a damaged file is told


@dataclass(slots=True)
class _File:
    """A data file of which rows are counted, and what is known of them."""

    data: DataFile
    columns: tuple[str, ...]
    key: str
    known: Lengths  # [N]
    counted: array[int] = field(default_factory=lambda: array("i"))
    anew: bool = False


class RowLengths:
    """Counts the tokens of rows, file by file; those of a file that was counted before come from the cache folder."""

    def __init__(
        self,
        load: Callable[[], Tokenizer],
        tokenizer_file: Path,
        cache: Path | None,
        *,
        special_tokens: bool = True,
        length: Callable[[Sequence[int]], int] = len,
        start: Callable[[Tokenizer], Sequence[int]] = lambda tokenizer: (),
    ) -> None:
        self._load, self._tokenizer_file, self._cache = load, tokenizer_file, cache
        self._special_tokens, self._length, self._start = special_tokens, length, start
        self._files: list[_File] = []

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._load()

    @cached_property
    def _num_start(self) -> int:
        return len(self._start(self._tokenizer))

    def begin(self, data: DataFile, columns: tuple[str, ...]) -> None:
        """The rows that follow are those of a file, in order; `columns`: what decides which texts are counted."""
        key = self._key(data.file.sha256, data, columns)
        self._files.append(_File(data, columns, key, _read(self._cache, key)))

    def count(self, texts: Sequence[tuple[str, ...]], started: Sequence[bool] = ()) -> list[int]:
        """Tokens of the next rows of the file, special tokens included where the tokenizer puts some around.

        `started`: of each row, whether `start` stands in front of it.
        """
        file = self._files[-1]
        done = len(file.counted)
        lengths: list[int] = file.known[done : done + len(texts)].tolist()
        if len(lengths) < len(texts):
            inputs = [row[0] if len(row) == 1 else row for row in texts]
            encodings = self._tokenizer.encode_batch_fast(inputs, add_special_tokens=self._special_tokens)
            lengths = [self._length(encoding.ids) for encoding in encodings]
            if any(started):
                lengths = [length + self._num_start * first for length, first in zip(lengths, started, strict=True)]
            file.anew = True
        file.counted.extend(lengths)
        return lengths

    def remember(self) -> None:
        """Keeps what was counted anew. For when every row of the files was counted."""
        for file in self._files:
            if self._cache is not None and file.anew and self._is_same(file):
                _write(self._cache, file.key, np.asarray(file.counted, np.int32))

    def _is_same(self, file: _File) -> bool:
        """Whether neither the data nor the tokenizer has changed while rows were counted."""
        with contextlib.suppress(OSError):
            return self._key(sha256_of(file.data.path, self._cache), file.data, file.columns) == file.key
        return False

    def _key(self, sha256: str, data: DataFile, columns: tuple[str, ...]) -> str:
        import tokenizers

        versions = (_FORM, __version__, tokenizers.__version__)
        read_as = (sha256, data.file.format, columns, sha256_of(self._tokenizer_file, self._cache))
        return hashlib.sha256(json.dumps([*versions, *read_as]).encode()).hexdigest()


def _read(cache: Path | None, key: str) -> Lengths:
    """What is remembered under a key; nothing when it is not there or damaged."""
    nothing = np.empty(0, np.int32)
    if cache is None:
        return nothing
    path = cache / _FOLDER / key
    try:
        content = path.read_bytes()
        os.utime(path)  # it was used
    except OSError:
        return nothing
    digest, lengths = content[:_DIGEST], content[_DIGEST:]
    whole = hashlib.sha256(lengths).digest() == digest
    return np.frombuffer(lengths, "<i4") if whole else nothing


def _write(cache: Path, key: str, lengths_N: Lengths) -> None:
    """Keeps lengths under a key; a cache that can't be written is as good as none."""
    content = lengths_N.astype("<i4").tobytes()
    if len(content) > _MOST // 2:  # it would drive out all else
        return
    with contextlib.suppress(OSError):
        write_bytes(cache / _FOLDER / key, hashlib.sha256(content).digest() + content)
        _forget(cache / _FOLDER)


def _forget(folder: Path) -> None:
    """Deletes what was not used for longest, until the rest is small enough."""
    states = [(path.stat().st_mtime_ns, path.stat().st_size, path) for path in folder.iterdir()]
    total = 0
    for _, size, path in sorted(states, reverse=True):
        total += size
        if total > _MOST:
            path.unlink(missing_ok=True)
