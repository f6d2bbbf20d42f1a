"""Texts -> token ids -> padded arrays, as a bundle does it: the tokenizer's own file, numpy, nothing else."""

# Axes: B = rows, T = tokens

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

Inputs = Mapping[str, npt.NDArray[np.int64]]
"""[B, T] by the model's argument name."""
Texts = tuple[str, ...]
"""What of a row is tokenized together: one text, or a pair."""
CHUNK = 512
"""Rows tokenized at once, so that memory does not grow with the number of texts."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One row: its token ids and the segment of each."""

    ids: tuple[int, ...]
    type_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A tokenizer that cuts at `max_length` tokens, special ones counted."""

    tokenizer: Tokenizer
    max_length: int
    pad_id: int

    def encodings(self, texts: Sequence[Texts]) -> list[Encoding]:
        """What the tokenizer makes of each row."""
        inputs = [row[0] if len(row) == 1 else row for row in texts]
        found: list[Encoding] = self.tokenizer.encode_batch_fast(inputs)
        return found

    def encode(self, texts: Iterable[Texts]) -> Iterator[Tokens]:
        """The tokens of each row, in order."""
        for chunk in chunks(texts, CHUNK):
            for found in self.encodings(chunk):
                yield Tokens(tuple(found.ids), tuple(found.type_ids))

    def lengths(self, texts: Iterable[Texts]) -> npt.NDArray[np.int64]:
        """Tokens of each row after the cut, [N]."""
        return np.fromiter((len(tokens.ids) for tokens in self.encode(texts)), dtype=np.int64)

    def cuts(self, text: str) -> bool:
        """Whether a text is longer than the maximum."""
        return bool(self.tokenizer.encode(text).overflowing)

    def pad(self, rows: Sequence[Tokens]) -> dict[str, npt.NDArray[np.int64]]:
        """input_ids, attention_mask and token_type_ids, int64 [B, T], padded on the right to the longest row."""
        num_tokens = max(1, *(len(row.ids) for row in rows))
        shape = (len(rows), num_tokens)
        ids, mask, types = np.full(shape, self.pad_id), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = row.ids
            mask[index, : len(row.ids)] = 1
            types[index, : len(row.type_ids)] = row.type_ids
        return {"input_ids": ids.astype(np.int64), "attention_mask": mask, "token_type_ids": types}


def open_encoder(tokenizer_file: Path, *, max_length: int, pad_id: int = 0) -> Encoder:
    """The encoder of a tokenizer.json, whose own cut and padding are replaced. Raises OSError or ValueError."""
    text = tokenizer_file.read_text(encoding="utf-8")
    try:
        tokenizer: Any = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{tokenizer_file.name} is not a tokenizer: {error}") from error
    tokenizer.enable_truncation(max_length=max_length)
    tokenizer.no_padding()
    return Encoder(tokenizer=tokenizer, max_length=max_length, pad_id=pad_id)


def pad_id(config: Any, tokenizer: Any) -> int:
    """The padding token's id, which config.json or else the tokenizer's own padding names; 0 when neither does."""
    padding = tokenizer.get("padding") if isinstance(tokenizer, dict) else None
    for found, name in ((config, "pad_token_id"), (padding, "pad_id")):
        value = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, int):
            return value
    return 0


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` items, in order."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
