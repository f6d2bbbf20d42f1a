"""Golden rows: what the trained model answered on a few real rows and on probes, kept in the bundle.

Real rows show that the numbers are right. Probes are made from them to show faults that clean, short, lower-case data
hides: a tokenizer that lower-cases no more, accents, odd spaces, an empty text, a text that has to be cut. Of images,
other colours, directions and sizes: a real image is kept as it was resized, so that only probes are resized again.
"""

# Axes: N = texts, P = positions of a row, C = outputs of a position

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.files import write_text
from compiler.json_text import value_of
from compiler.typed import read, to_json
from runtimes.rows.features import Ragged
from runtimes.rows.images import ImageReader, blanks, png, variants

NUM_ROWS = 200
NUM_VARIED = 6
"""Real texts of which variants are made."""
_ACCENTED = str.maketrans("aeiounAEIOUN", "áèîöúñÁÈÎÖÚÑ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """A row, its tokens, and what the trained model made of it. An image is inside, so that nothing else is needed."""

    row: Mapping[str, Any]  # by role; a probe has no true answer
    probe: str | None  # how it was made; None for a real row
    ids: tuple[int, ...]  # of its tokens, or a checksum of its pixels
    outputs: tuple[tuple[float, ...], ...]  # [P, C]
    decision: str | None  # what was decided, where the task decides

    @property
    def real(self) -> bool:
        """Whether the row is a held-out one."""
        return self.probe is None


@dataclass(frozen=True, slots=True)
class Probe:
    """A text, or an image as a data URI, made to show a fault, and which."""

    name: str
    text: str


def choose_rows(lengths: npt.NDArray[np.int64], count: int = NUM_ROWS) -> npt.NDArray[np.int64]:
    """The numbers of at most `count` rows spread evenly over the lengths, the shortest and the longest among them.

    Short and long ones alternate, so that every batch of neighbours has padding in it.
    """
    by_length = np.argsort(lengths, kind="stable")
    chosen = by_length[spread(len(lengths), count)]
    return alternate(chosen)


def spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the numbers below `total`, evenly spread, both ends among them."""
    return np.unique(np.linspace(0, max(0, total - 1), min(count, total)).round().astype(np.int64))


def alternate(items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """First, last, second, last but one, ..."""
    found = np.empty_like(items)
    half = (len(items) + 1) // 2
    found[0::2], found[1::2] = items[:half], items[half:][::-1]
    return found


def make_probes(texts: Sequence[str], is_cut: Callable[[str], bool], num_varied: int = NUM_VARIED) -> tuple[Probe, ...]:
    """Probes from real texts; each text once. `is_cut`: whether the tokenizer would cut a text at its maximum."""
    if not texts:
        return ()
    varied = [texts[index] for index in spread(len(texts), num_varied)]
    found = [probe for text in varied for probe in _variants(text)]
    found += [Probe("too long", _too_long(max(texts, key=len), is_cut)), *_foreign(varied[0])]
    seen = set(texts)
    return tuple(probe for probe in found if not (probe.text in seen or seen.add(probe.text)))  # type: ignore[func-returns-value]


def image_probes(images: Sequence[str], reader: ImageReader) -> tuple[Probe, ...]:
    """Probes from real images: other colours, directions, sizes and shapes, and images with nothing in them."""
    if not images:
        return ()
    varied = [reader.resized(images[index]) for index in spread(len(images), NUM_VARIED)]
    found = [*(made for picture in varied for made in variants(picture)), *blanks(varied[0].size)]
    return tuple(Probe(name, png(picture)) for name, picture in found)


def _variants(text: str) -> Iterator[Probe]:
    yield Probe("upper case", text.upper())
    yield Probe("title case", text.title())
    yield Probe("lower case", text.lower())
    yield Probe("accents taken off", _without_accents(text))
    yield Probe("accents put on", text.translate(_ACCENTED))
    yield Probe("combining accents", unicodedata.normalize("NFD", text.translate(_ACCENTED)))
    yield Probe("spaces around", f"  {text} \t")
    yield Probe("double spaces", text.replace(" ", "  "))
    yield Probe("no spaces", text.replace(" ", ""))


def _foreign(text: str) -> Iterator[Probe]:
    yield Probe("empty", "")
    yield Probe("only spaces", "   ")
    yield Probe("line break", text.replace(" ", "\n", 1) + "\n")
    yield Probe("emoji", f"{text} \N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4} \N{HEAVY BLACK HEART}\ufe0f")
    yield Probe("CJK", "这部电影很好看。この映画は良い。영화가 좋다.")
    yield Probe("right to left", "هذا فيلم جيد")
    yield Probe("full width", "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text))
    yield Probe("control characters", f"\ufeff{text}\u200b\u0000\u00ad")
    yield Probe("punctuation", "!?...,;:-_#@%&*()[]{}'\"`~^|\\/<>=+$")
    yield Probe("digits", "1234567890 3.14159 1,000,000 2024-12-31")
    yield Probe("special tokens", "[CLS] [SEP] [PAD] [UNK] [MASK] <s> </s> <pad> <unk>")


def _without_accents(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


def _too_long(text: str, is_cut: Callable[[str], bool]) -> str:
    """The text, repeated until it is cut; a tokenizer that makes nothing of it gets a letter."""
    repeated = text.strip() or "a"
    for _ in range(24):
        if is_cut(repeated):
            return repeated
        repeated = f"{repeated} {repeated}"
    return repeated


def write_golden(path: Path, rows: Sequence[Golden]) -> None:
    """Writes golden rows as JSONL. Outputs are the shortest decimals that give the same float32 again."""
    write_text(path, "".join(json.dumps(_short(to_json(row)), ensure_ascii=False) + "\n" for row in rows))


def read_golden(path: Path) -> tuple[Golden, ...]:
    """The golden rows of a file. Raises OSError, or ValueError naming the line that is not one."""
    return tuple(_read_lines(path))


def _read_lines(path: Path) -> Iterator[Golden]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            yield read(Golden, value_of(line))
        except ValueError as error:
            raise ValueError(f"{path.name} line {number}: {error}") from error


def outputs_of(rows: Sequence[Golden], num_outputs: int) -> Ragged:
    """The trained model's outputs, [P, C]. Raises ValueError where a row has others than the task has."""
    nothing = np.empty((0, num_outputs), np.float32)
    if any(len(outputs) != num_outputs for row in rows for outputs in row.outputs):
        raise ValueError(f"golden rows have not the {num_outputs} outputs of the task each")
    parts = [np.asarray(row.outputs, np.float32).reshape(-1, num_outputs) for row in rows]
    return Ragged.of(parts, nothing)


def _short(value: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs with as many digits as tell one float32 from the next."""
    return {**value, "outputs": [[float(str(np.float32(one))) for one in outputs] for outputs in value["outputs"]]}
