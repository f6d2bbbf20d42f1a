"""The source's own noise: what float32 rounding alone does to the outputs of a saved model."""

# Axes: P = positions of the rows, C = outputs of a position

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from runtimes.protocol import Batch
from runtimes.pytorch.inputs import taken_inputs
from runtimes.pytorch.loading import SourceError
from runtimes.pytorch.objective import read_outputs, results_of
from runtimes.tasks.interface import Head
from runtimes.verification.tolerance import Noise

NOISE_ROWS = 64


def float32_noise(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    head: Head,
    *,
    max_rows: int = NOISE_ROWS,
    before_each: Callable[[], None] = lambda: None,
) -> Noise:
    """Largest |float32 - float64| over the first `max_rows` rows, on CPU; SourceError where an output is not finite.

    Where outputs have units of their own, in these. `before_each` is called before each batch, and may raise.
    Reads no further batch than it needs. Leaves the model in float64: 8 bytes a parameter.
    """
    rows = list(first_rows(batches, max_rows))
    if not rows:
        raise ValueError("noise is measured on at least one row, no batch was given")
    units = np.asarray(head.units)

    def answered(dtype: type[np.floating[Any]]) -> Iterator[np.ndarray]:
        for batch in rows:
            before_each()
            yield outputs(model, batch, head) / units.astype(dtype)

    singles = [*answered(np.float32)]
    model.double()
    doubles = [*answered(np.float64)]
    return Noise(
        max_abs=max(starmap(_largest_difference, zip(singles, doubles, strict=True))),
        scale=max(float(np.abs(double).max()) for double in doubles),
        rows=sum(len(batch.rows) for batch in rows),
    )


def first_rows(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The batches that hold the first `count` rows, the last one cut to fit."""
    left = count
    for batch in batches:
        yield Batch(
            inputs={name: values[:left] for name, values in batch.inputs.items()},
            targets=batch.targets[:left],
            weights=batch.weights[:left],
            positions=batch.positions[:left],
            rows=batch.rows[:left],
        )
        left -= len(batch.rows)
        if left <= 0:
            return


def outputs(model: PreTrainedModel, batch: Batch, head: Head) -> np.ndarray:
    """The outputs of a batch's positions, [P, C], in the model's own dtype."""
    with torch.inference_mode():
        inputs = taken_inputs(model, batch.inputs)
        own = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        logits = results_of(model(**own, **head.arguments), head.results)
        found: np.ndarray = read_outputs(head.reading, logits, torch.from_numpy(batch.targets)).numpy()[batch.positions]
    if not np.isfinite(found).all():
        raise SourceError(f"the model gives outputs that are not finite in {found.dtype}", "look at the training loss")
    return found


def _largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())
