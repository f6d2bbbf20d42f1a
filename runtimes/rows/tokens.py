"""Texts -> token ids, as a bundle does it: the tokenizer's own file, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

Texts = tuple[str, ...]
"""What of a row is tokenized together: one text, or a pair."""


@dataclass(frozen=True, kw_only=True)
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

    def with_offsets(self, texts: Sequence[Texts]) -> list[Encoding]:
        """As `encodings`, each token with the characters that it stands for."""
        inputs = [row[0] if len(row) == 1 else row for row in texts]
        found: list[Encoding] = self.tokenizer.encode_batch(inputs)
        return found

    def uncut(self, texts: Sequence[Texts]) -> list[Encoding]:
        """As `with_offsets`, of rows as long as they are."""
        inputs = [row[0] if len(row) == 1 else row for row in texts]
        found: list[Encoding] = self.whole.encode_batch(inputs)
        return found

    @cached_property
    def whole(self) -> Tokenizer:
        """The tokenizer without a cut."""
        tokenizer: Tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.no_truncation()
        return tokenizer

    def cuts(self, text: str) -> bool:
        """Whether a text is longer than the maximum."""
        return bool(self.tokenizer.encode(text).overflowing)


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
