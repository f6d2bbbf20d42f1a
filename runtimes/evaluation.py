"""A model's figures on every row of a split."""

# N = rows, C = outputs of a row

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
    batch_size: int,
    on_halved: Callable[[int], None] = lambda _: None,
) -> RowResults:
    """Losses [N] and outputs [N, C] of all rows, each computed once, in the order of the split.

    When the device has no room the batch size is halved for the rest, and `on_halved` is told.
    """
    order: list[Rows] = []
    found: list[RowResults] = []
    waiting = list(reversed(evaluation_batches(features.lengths, batch_size)))
    while waiting:
        rows = waiting.pop()
        fill_to = batch_size if engine.fixed_shapes else 0
        try:
            found.append(engine.evaluate(collate(features, rows, grid=grid, fill_to=fill_to)))
        except OutOfMemory:
            batch_size = halved(batch_size)
            on_halved(batch_size)
            waiting = [part for whole in [*waiting, rows] for part in _parts(whole, batch_size)]
            continue
        order.append(rows)
    return _in_order(order, found)


def _in_order(order: Sequence[Rows], found: Sequence[RowResults]) -> RowResults:
    """The results of batches as those of their rows, filling rows left out."""
    places = np.argsort(np.concatenate(order))
    losses = [result.losses[: len(rows)] for rows, result in zip(order, found, strict=True)]
    outputs = [result.outputs[: len(rows)] for rows, result in zip(order, found, strict=True)]
    return RowResults(losses=np.concatenate(losses)[places], outputs=np.concatenate(outputs)[places])


def _parts(rows: Rows, size: int) -> list[Rows]:
    """In reverse, as a stack takes them."""
    return [rows[start : start + size] for start in range(0, len(rows), size)][::-1]


def halved(micro_batch_size: int) -> int:
    """Half as many rows at once; RunError when there was only one."""
    if micro_batch_size == 1:
        hint = "set /training/gradient_checkpointing, lower /training/max_length, or choose a smaller model or lora"
        raise RunError("E405", "the device has no room for a single row", hint)
    return -(-micro_batch_size // 2)
