"""A model's figures on every row of a split."""

# N = rows, C = classes

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from runtimes.batches import Rows, collate, evaluation_batches
from runtimes.errors import RunError
from runtimes.features import Features
from runtimes.protocol import Engine, OutOfMemory, RowResults


def evaluate(
    engine: Engine,
    features: Features,
    *,
    grid: Sequence[int],
    num_labels: int,
    batch_size: int,
    on_halved: Callable[[int], None] = lambda _: None,
) -> RowResults:
    """Losses [N] and scores [N, C] of all rows, each computed once, in the order of the split.

    When the device has no room the batch size is halved for the rest, and `on_halved` is told.
    """
    losses = np.zeros(len(features), np.float32)
    scores = np.zeros((len(features), num_labels), np.float32)
    waiting = list(reversed(evaluation_batches(features.lengths, batch_size)))
    while waiting:
        rows = waiting.pop()
        try:
            found = _evaluated(engine, features, rows, grid, num_labels, batch_size)
        except OutOfMemory:
            batch_size = halved(batch_size)
            on_halved(batch_size)
            waiting = [part for whole in [*waiting, rows] for part in _parts(whole, batch_size)]
            continue
        losses[rows], scores[rows] = found.losses[: len(rows)], found.scores[: len(rows)]
    return RowResults(losses=losses, scores=scores)


def _evaluated(
    engine: Engine, features: Features, rows: Rows, grid: Sequence[int], num_labels: int, batch_size: int
) -> RowResults:
    fill_to = batch_size if engine.fixed_shapes else 0
    return engine.evaluate(collate(features, rows, grid=grid, class_weights=(1.0,) * num_labels, fill_to=fill_to))


def _parts(rows: Rows, size: int) -> list[Rows]:
    """In reverse, as a stack takes them."""
    return [rows[start : start + size] for start in range(0, len(rows), size)][::-1]


def halved(micro_batch_size: int) -> int:
    """Half as many rows at once; RunError when there was only one."""
    if micro_batch_size == 1:
        hint = "lower /training/max_length, choose a smaller model, or the method lora"
        raise RunError("E405", "the device has no room for a single row", hint)
    return -(-micro_batch_size // 2)
