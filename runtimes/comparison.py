"""What the gate compares models on: the held-out rows, golden rows among them, and probes."""

# Axes: N = rows

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.tasks import Task, texts_of
from runtimes import tasks
from runtimes.golden import Probe, alternate, choose_rows, make_probes, spread
from runtimes.protocol import Batch
from runtimes.tokens import Encoder, Texts, chunks

Row = Mapping[str, Any]
"""The values of a row by role."""
NOISE_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out rows: their values by role, and their true answers as arrays [N]."""

    task: Task
    rows: Sequence[Row]
    targets: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is compared: held-out rows, and probes, whose numbers go on where those of the split end."""

    held_out: HeldOut
    numbers: npt.NDArray[np.int64]  # [N] in the split
    lengths: npt.NDArray[np.int64]  # [N] in tokens
    golden: npt.NDArray[np.int64]  # places among the numbers
    probes: tuple[Probe, ...]

    @property
    def targets(self) -> npt.NDArray[Any]:
        """[N] true answers."""
        return self.held_out.targets[self.numbers]

    @property
    def probe_numbers(self) -> npt.NDArray[np.int64]:
        """Numbers of the probes."""
        return len(self.held_out) + np.arange(len(self.probes))

    @property
    def alone_numbers(self) -> npt.NDArray[np.int64]:
        """Numbers of the golden rows, then of the probes."""
        return np.concatenate([self.numbers[self.golden], self.probe_numbers])

    def row(self, number: int) -> Row:
        """The row of a number."""
        past = number - len(self.held_out)
        if past < 0:
            return self.held_out.rows[number]
        return tasks.module_of(self.held_out.task).probe_row(self.probes[past].text)

    def rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        """The row of each number, one after another."""
        return map(self.row, numbers)

    def texts(self, numbers: Iterable[int]) -> Iterator[Texts]:
        """What of each row is tokenized."""
        return map(partial(texts_of, self.held_out.task), self.rows(numbers))


def choose(held_out: HeldOut, encoder: Encoder, max_rows: int) -> Rows:
    """At most `max_rows` held-out rows (0: all) evenly spread over the split, golden rows of them, and probes."""
    numbers = spread(len(held_out), max_rows or len(held_out))
    lengths = encoder.lengths(texts_of(held_out.task, held_out.rows[number]) for number in numbers)
    golden = choose_rows(lengths)
    by_length = golden[np.argsort(lengths[golden], kind="stable")]
    probes = make_probes(
        [texts_of(held_out.task, held_out.rows[number])[0] for number in numbers[by_length]], encoder.cuts
    )
    return Rows(held_out=held_out, numbers=numbers, lengths=lengths, golden=golden, probes=probes)


def noise_batches(rows: Rows, encoder: Encoder, batch_size: int) -> Iterator[Batch]:
    """NOISE_ROWS rows spread over the lengths, the longest text of all the last one: rounding grows with length."""
    chosen = rows.numbers[choose_rows(rows.lengths, NOISE_ROWS - 1)]
    yield from batches(rows.texts(chosen), encoder, batch_size)
    if rows.probes:
        longest = max(rows.probe_numbers, key=lambda number: len(rows.probes[number - len(rows.held_out)].text))
        yield from batches(rows.texts([longest]), encoder, 1)


def batches(texts: Iterable[Texts], encoder: Encoder, batch_size: int) -> Iterator[Batch]:
    """Rows in padded batches, in the order in which they come."""
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
