"""The rows of a task that is trained: which of them each of its turns has, and as what batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from compiler.plan import Train
from runtimes import tasks
from runtimes.protocol import Batch
from runtimes.rows.batches import (
    Rows,
    as_it_is,
    collate,
    epoch_batches,
    epoch_rows,
    micro_batches,
    num_batches,
    padded_lengths,
)
from runtimes.rows.features import Features


@dataclass(frozen=True, slots=True)
class TurnRows:
    """The rows of a turn, and the task's epoch in which it is."""

    rows: Rows
    epoch: int


class TrainRows:
    """The rows of one task. `term`: what its loss is called."""

    def __init__(self, term: str, train: Features, validation: Features | None, step: Train) -> None:
        self.term, self.train, self.validation, self.step = term, train, validation, step
        self.task = tasks.module_of(step.task)
        self.lengths = train.lengths
        self.per_epoch = num_batches(len(self._epoch_rows(0)), step.batch_size)
        self._order: tuple[int, tuple[Rows, ...]] = (-1, ())

    def of_turn(self, number: int) -> TurnRows:
        """The rows of a turn, which counts from 0."""
        epoch, position = divmod(number, self.per_epoch)
        if self._order[0] != epoch:
            rows = self._epoch_rows(epoch)
            padded = padded_lengths(self.lengths[rows], self.step.lengths)
            batches = epoch_batches(padded, batch_size=self.step.batch_size, seed=self.step.seed, epoch=epoch)
            self._order = (epoch, tuple(rows[batch] for batch in batches))
        return TurnRows(self._order[1][position], epoch)

    def _epoch_rows(self, epoch: int) -> Rows:
        draw, count = self.step.draw, len(self.train)
        classes = np.zeros(count, np.int64) if draw == "every" else self.train.targets.values
        return epoch_rows(classes, draw=draw, seed=self.step.seed, epoch=epoch)

    def micro_batches(self, turn: TurnRows, size: int, *, filled: bool) -> tuple[Batch, ...]:
        """The rows of a turn in portions; `filled`: each of as many rows."""
        step, vary = self.step, self.task.VARY
        varied = as_it_is if vary is None else partial(vary, step.task, seed=step.seed, epoch=turn.epoch)
        weigh = partial(self.task.weights, step.task, step.loss)
        return tuple(
            replace(
                collate(self.train, part, grid=step.lengths, weigh=weigh, vary=varied, fill_to=size if filled else 0),
                term=self.term,
            )
            for part in micro_batches(turn.rows, self.lengths, size)
        )

    def num_tokens(self, turn: TurnRows) -> int:
        """Tokens of the rows of a turn, without padding."""
        return int(self.lengths[turn.rows].sum())
