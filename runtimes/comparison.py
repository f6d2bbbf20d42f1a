"""What the gate compares models on: the held-out rows, golden rows among them, and probes."""

# Axes: N = rows

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtimes.golden import Probe, alternate, choose_rows, make_probes, spread
from runtimes.protocol import Batch
from runtimes.tokens import Encoder, chunks

NOISE_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out rows: texts, and their label numbers [N]."""

    texts: Sequence[str]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is compared: held-out rows, and probes, whose numbers go on where those of the split end."""

    held_out: HeldOut
    numbers: npt.NDArray[np.int64]  # [N] in the split
    lengths: npt.NDArray[np.int64]  # [N] in tokens
    golden: npt.NDArray[np.int64]  # places among the numbers
    probes: tuple[Probe, ...]

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """[N] label numbers."""
        return self.held_out.targets[self.numbers]

    @property
    def probe_numbers(self) -> npt.NDArray[np.int64]:
        """Numbers of the probes."""
        return len(self.held_out) + np.arange(len(self.probes))

    @property
    def alone_numbers(self) -> npt.NDArray[np.int64]:
        """Numbers of the golden rows, then of the probes."""
        return np.concatenate([self.numbers[self.golden], self.probe_numbers])

    def text(self, number: int) -> str:
        """The text of a number."""
        past = number - len(self.held_out)
        return self.held_out.texts[number] if past < 0 else self.probes[past].text

    def texts(self, numbers: Iterable[int]) -> Iterator[str]:
        """The text of each number, one after another."""
        return map(self.text, numbers)


def choose(held_out: HeldOut, encoder: Encoder, max_rows: int) -> Rows:
    """At most `max_rows` held-out rows (0: all) evenly spread over the split, golden rows of them, and probes."""
    numbers = spread(len(held_out), max_rows or len(held_out))
    lengths = encoder.lengths(held_out.texts[number] for number in numbers)
    golden = choose_rows(lengths)
    by_length = golden[np.argsort(lengths[golden], kind="stable")]
    probes = make_probes([held_out.texts[number] for number in numbers[by_length]], encoder.cuts)
    return Rows(held_out=held_out, numbers=numbers, lengths=lengths, golden=golden, probes=probes)


def noise_batches(rows: Rows, encoder: Encoder, batch_size: int) -> Iterator[Batch]:
    """NOISE_ROWS rows spread over the lengths, the longest text of all the last one: rounding grows with length."""
    chosen = rows.numbers[choose_rows(rows.lengths, NOISE_ROWS - 1)]
    yield from batches(rows.texts(chosen), encoder, batch_size)
    if rows.probes:
        yield from batches([max((probe.text for probe in rows.probes), key=len)], encoder, 1)


def batches(texts: Iterable[str], encoder: Encoder, batch_size: int) -> Iterator[Batch]:
    """Texts in padded batches, in the order in which they come."""
    start = 0
    for tokens in chunks(encoder.encode(texts), batch_size):
        places = np.arange(start, start + len(tokens))
        start += len(tokens)
        yield Batch(
            inputs=encoder.pad(tokens),
            targets=np.zeros(len(tokens), np.int64),
            weights=np.ones(len(tokens), np.float32),
            rows=places,
        )


def mixed_order(count: int) -> npt.NDArray[np.int64]:
    """The numbers below `count` from both ends in turn, so that lengths mix in a batch also where a file is sorted."""
    return alternate(np.arange(count))
