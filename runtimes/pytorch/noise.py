"""The source's own noise: what float32 rounding alone does to the outputs of a saved model."""

# Axes: P = positions of the rows, C = outputs of a position

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import starmap
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from runtimes.errors import RunError, first_line
from runtimes.protocol import Batch
from runtimes.pytorch.inputs import taken_inputs
from runtimes.pytorch.objective import read_outputs, results_of
from runtimes.pytorch.quiet import quiet
from runtimes.tasks.interface import Head
from runtimes.tolerance import Noise

NOISE_ROWS = 64
SEQUENCE_CLASSIFIER = "AutoModelForSequenceClassification"


class SourceError(RunError):
    """A saved model can't be loaded whole, or doesn't compute."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E502", message, hint)


def float32_noise(model_folder: Path, batches: Iterable[Batch], head: Head, *, max_rows: int = NOISE_ROWS) -> Noise:
    """Largest |float32 - float64| over the first `max_rows` rows, on CPU; SourceError where an output is not finite.

    Where outputs have units of their own, in these.
    Reads no further batch than it needs. Holds the weights once, in float32 and then in float64: 8 bytes a parameter.
    """
    rows = list(first_rows(batches, max_rows))
    if not rows:
        raise ValueError("noise is measured on at least one row, no batch was given")
    model = load_source(model_folder, auto_class=head.auto_class)
    units = np.asarray(head.units)
    singles = [outputs(model, batch, head) / units.astype(np.float32) for batch in rows]
    model.double()
    doubles = [outputs(model, batch, head) / units for batch in rows]
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


def load_source(
    model_folder: Path, *, auto_class: str = SEQUENCE_CLASSIFIER, attention: str | None = None
) -> PreTrainedModel:
    """The saved model, float32, on CPU, in eval mode; SourceError when a weight is not in the folder.

    transformers would fill a missing head with random numbers and go on.
    """
    _check_folder(model_folder)
    with quiet():
        try:
            model, info = getattr(transformers, auto_class).from_pretrained(
                model_folder,
                dtype=torch.float32,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise SourceError(f"{model_folder}: {auto_class} can't load it: {first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise SourceError(
            f"{model_folder}: the weights lack {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}",
            f"give the folder of a tuned model, saved with the head that {auto_class} reads",
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def _check_folder(model_folder: Path) -> None:
    for pattern in ("config.json", "*.safetensors"):
        if next(model_folder.glob(pattern), None) is None:
            raise SourceError(
                f"{model_folder}: no {pattern} there",
                "a saved model is a folder with config.json and safetensors weights; pickled weights are not read",
            )


def _largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())
