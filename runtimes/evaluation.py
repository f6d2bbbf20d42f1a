"""A model's figures on every row of a split."""

# P = positions of all rows, C = outputs of a position

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from runtimes.errors import RunError
from runtimes.protocol import LOSS, Engine, OutOfMemory
from runtimes.rows.batches import Rows, answered, collate, evaluation_batches, in_order
from runtimes.rows.features import Ragged, Table, is_answered


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of all rows of a split, in its order."""

    losses: Ragged
    outputs: Ragged  # [P, C]


def evaluate(
    engine: Engine,
    features: Table,
    *,
    grid: Sequence[int],
    batch_size: int,
    on_halved: Callable[[int], None] = lambda _: None,
    term: str = LOSS,
) -> Evaluation:
    """Losses and outputs of all rows, each computed once, in the order of the split.

    When the device has no room the batch size is halved for the rest, and `on_halved` is told. `term`: what the rows'
    loss is called.
    """
    order: list[Rows] = []
    losses: list[Ragged] = []
    outputs: list[Ragged] = []
    waiting = list(reversed(evaluation_batches(features.lengths, batch_size)))
    while waiting:
        rows = waiting.pop()
        filled = collate(features, rows, grid=grid, fill_to=batch_size if engine.fixed_shapes else 0)
        batch = replace(filled, term=term)
        try:
            found = engine.evaluate(batch)
        except OutOfMemory:
            batch_size = halved(batch_size)
            on_halved(batch_size)
            waiting = [part for whole in [*waiting, rows] for part in _parts(whole, batch_size)]
            continue
        order.append(rows)
        losses.append(answered(batch, found.losses))
        outputs.append(answered(batch, found.outputs))
    return Evaluation(in_order(order, losses), in_order(order, outputs))


def mean_loss(losses: Ragged, targets: Ragged) -> float:
    """The mean over all that was to be answered."""
    counted = is_answered(targets.values)
    return float(np.mean(losses.values[counted], dtype=np.float64)) if counted.any() else 0.0


def _parts(rows: Rows, size: int) -> list[Rows]:
    """In reverse, as a stack takes them."""
    return [rows[start : start + size] for start in range(0, len(rows), size)][::-1]


def halved(micro_batch_size: int) -> int:
    """Half as many rows at once; RunError when there was only one."""
    if micro_batch_size == 1:
        hint = "set /training/gradient_checkpointing, lower /training/max_length, or choose a smaller model or lora"
        raise RunError("E405", "the device has no room for a single row", hint)
    return -(-micro_batch_size // 2)
