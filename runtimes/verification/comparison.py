"""What the gate compares models on: the held-out rows, golden rows among them, and probes."""

# Axes: N = rows

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler import tasks as compiler_tasks
from compiler.tasks import Example, Task, texts_of
from runtimes import tasks
from runtimes.bundles.golden import NUM_ROWS, Probe, alternate, choose_rows, image_probes, make_probes, spread
from runtimes.protocol import Batch
from runtimes.rows.batches import Rows as Places
from runtimes.rows.batches import answered, collate, in_order
from runtimes.rows.features import IGNORED, Ragged, Table, table_of
from runtimes.rows.images import ImageReader
from runtimes.rows.inputs import Row, columns_of, image_role
from runtimes.rows.tokens import chunks
from runtimes.rows.windows import WINDOW
from runtimes.tasks import Head
from runtimes.tasks.interface import InputReader

NOISE_ROWS = 64
TOKEN_ROWS = 4
TOKEN_GOLDEN, TOKEN_VARIED = 32, 2
"""Golden rows, and texts that probes are made from, of models that answer at every token: each row is many answers."""
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The held-out rows: their values by role, true answers among them where they are answered."""

    task: Task
    rows: Sequence[Row]
    answered: bool = True

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is compared: held-out rows, and probes, whose numbers go on where those of the split end."""

    task: Task
    encoder: InputReader
    values: Sequence[Row]  # held-out rows, then probes
    table: Table  # of them
    numbers: npt.NDArray[np.int64]  # [N] of the held-out rows in the split
    golden: npt.NDArray[np.int64]  # places among the held-out rows
    probes: tuple[Probe, ...]
    num_rows: int  # of the split

    @property
    def places(self) -> Places:
        """[N] of the held-out rows in the table."""
        return np.arange(len(self.numbers))

    @property
    def probe_places(self) -> Places:
        """Of the probes in the table."""
        return len(self.numbers) + np.arange(len(self.probes))

    @property
    def alone_places(self) -> Places:
        """Of the golden rows, then of the probes."""
        return np.concatenate([self.golden, self.probe_places])

    @property
    def all_numbers(self) -> npt.NDArray[np.int64]:
        """The number of each row of the table."""
        return np.concatenate([self.numbers, self.num_rows + np.arange(len(self.probes))])

    @property
    def targets(self) -> Ragged:
        """The true answers of the held-out rows."""
        return self.table.targets.take(self.places)


def choose(held_out: HeldOut, encoder: InputReader, max_rows: int) -> Rows:
    """At most `max_rows` held-out rows (0: all) evenly spread over the split, golden rows of them, and probes."""
    task, numbers = held_out.task, spread(len(held_out), max_rows or len(held_out))
    chosen = [held_out.rows[number] for number in numbers]
    examples = examples_of(task, chosen) if held_out.answered else [Example(row=row) for row in chosen]
    lengths = encoded(task, examples, encoder).lengths
    golden = choose_rows(lengths, TOKEN_GOLDEN if _reads_tokens(task) else NUM_ROWS)
    by_length = golden[np.argsort(lengths[golden], kind="stable")]
    probes = _probes(task, [chosen[place] for place in by_length], encoder)
    made = [_probe_row(task, chosen[number % len(chosen)], probe.text) for number, probe in enumerate(probes)]
    return Rows(
        task=task,
        encoder=encoder,
        values=[*chosen, *made],
        table=encoded(task, [*examples, *(Example(row=row, target=0) for row in made)], encoder),
        numbers=numbers,
        golden=golden,
        probes=probes,
        num_rows=len(held_out),
    )


def _probes(task: Task, rows: Sequence[Row], encoder: InputReader) -> tuple[Probe, ...]:
    """Probes from held-out rows, the shortest first: texts, or images as data URIs."""
    if isinstance(encoder, ImageReader):
        role = image_role(task)
        assert role is not None, "its images are read"
        return image_probes([row[role] for row in rows], encoder)
    texts = [texts_of(task, row)[0] for row in rows]
    if _reads_tokens(task):  # the shorter ones show the same faults
        return make_probes(texts[: (len(texts) + 1) // 2], encoder.cuts, TOKEN_VARIED)
    return make_probes(texts, encoder.cuts)


def _reads_tokens(task: Task) -> bool:
    """Whether a model is asked at every token."""
    return tasks.module_of(task).head(task).reading == "tokens"


def _probe_row(task: Task, row: Row, text: str) -> Row:
    """A row with a text that was made up; a second text is that of a held-out row."""
    second = {role: row[role] for role in compiler_tasks.module_of(task).NAMED if role in row}
    return {**second, **tasks.module_of(task).probe_row(text)}


def examples_of(task: Task, rows: Sequence[Row]) -> list[Example]:
    """Rows by role, as their task reads them. Raises BadValueError."""
    there = {role: role for row in rows[:1] for role in row}
    reader = compiler_tasks.module_of(task).reader(task, compiler_tasks.columns_of(task, there))
    return [_same_window(reader.read(row), row) for row in rows]


def _same_window(example: Example, row: Row) -> Example:
    return replace(example, row={**example.row, WINDOW: row[WINDOW]}) if WINDOW in row else example


def encoded(task: Task, examples: Iterable[Example], encoder: InputReader) -> Table:
    """The columns of some rows, in memory."""
    module = tasks.module_of(task)
    portions = (module.encode(task, portion, encoder) for portion in chunks(examples, _ROWS_AT_ONCE))
    return table_of(portions, columns_of(task, encoder))


def noise_batches(rows: Rows, batch_size: int) -> Iterator[Batch]:
    """NOISE_ROWS rows spread over the lengths, the longest text of all the last one: rounding grows with length."""
    lengths = rows.table.lengths
    yield from batches(rows.table, choose_rows(lengths[rows.places], NOISE_ROWS - 1), batch_size)
    if rows.probes:
        longest = max(rows.probe_places, key=lambda place: len(rows.probes[place - len(rows.numbers)].text))
        yield from batches(rows.table, np.asarray([longest]), 1)


def batches(table: Table, places: Places, batch_size: int) -> Iterator[Batch]:
    """Rows in padded batches, in the order in which they come."""
    return (collate(table, places[start : start + batch_size]) for start in range(0, len(places), batch_size))


def outputs_of(
    scores: Callable[[Batch], npt.NDArray[np.floating[Any]]], table: Table, places: Places, batch_size: int
) -> Ragged:
    """What a model answers for some rows, float32 [P, C], in their order; batches are made in the order given."""
    if not len(places):
        return Ragged.of((), np.empty((0, 1), np.float32))
    found = [answered(batch, scores(batch)) for batch in batches(table, places, batch_size)]
    order = [np.arange(start, min(start + batch_size, len(places))) for start in range(0, len(places), batch_size)]
    whole = in_order(order, found)
    return Ragged(whole.values.astype(np.float32), whole.offsets)


def rows_at_once(head: Head, most: int) -> int:
    """Rows of a batch, at most so many; few of a language model, whose logits are many."""
    return min(most, TOKEN_ROWS) if head.reading == "tokens" else most


def asked(head: Head, targets: Ragged, count: int) -> npt.NDArray[np.bool_]:
    """[P] of `count` positions, where something is decided: of a language model where a token is to be learnt."""
    if head.reading == "tokens" and len(targets.values) == count:
        return np.asarray(targets.values != IGNORED)
    return np.ones(count, bool)


def mixed_order(count: int) -> npt.NDArray[np.int64]:
    """The numbers below `count` from both ends in turn, so that lengths mix in a batch also where a file is sorted."""
    return alternate(np.arange(count))
