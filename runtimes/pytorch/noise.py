"""The source's own noise: what float32 rounding alone does to the outputs of a saved model."""

# Axes: B = rows, T = tokens, C = classes

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import starmap
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from runtimes.errors import RunError
from runtimes.pytorch.inputs import taken_inputs
from runtimes.pytorch.quiet import quiet
from runtimes.tolerance import Noise

Batch = Mapping[str, np.ndarray]
"""int64 arrays [B, T]: input_ids, attention_mask and, where the model reads them, token_type_ids."""

NOISE_ROWS = 64
SEQUENCE_CLASSIFIER = "AutoModelForSequenceClassification"


class SourceError(RunError):
    """A saved model can't be loaded whole, or doesn't compute."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("E502", message, hint)


def float32_noise(
    model_folder: Path,
    batches: Iterable[Batch],
    *,
    auto_class: str = SEQUENCE_CLASSIFIER,
    max_rows: int = NOISE_ROWS,
) -> Noise:
    """Largest |float32 - float64| over the first `max_rows` rows, on CPU; SourceError where an output is not finite.

    Reads no further batch than it needs. Holds the weights once, in float32 and then in float64: 8 bytes a parameter.
    """
    rows = list(first_rows(batches, max_rows))
    if not rows:
        raise ValueError("noise is measured on at least one row, no batch was given")
    model = load_source(model_folder, auto_class=auto_class)
    singles = [outputs(model, batch) for batch in rows]
    model.double()
    doubles = [outputs(model, batch) for batch in rows]
    return Noise(
        max_abs=max(starmap(_largest_difference, zip(singles, doubles, strict=True))),
        scale=max(float(np.abs(double).max()) for double in doubles),
        rows=sum(len(batch["input_ids"]) for batch in rows),
    )


def first_rows(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """The batches that hold the first `count` rows, the last one cut to fit."""
    left = count
    for batch in batches:
        yield {name: values[:left] for name, values in batch.items()}
        left -= len(batch["input_ids"])
        if left <= 0:
            return


def outputs(model: PreTrainedModel, batch: Batch) -> np.ndarray:
    """The logits of a batch, [B, C], in the model's own dtype."""
    with torch.inference_mode():
        logits = model(**taken_inputs(model, batch)).logits
    found: np.ndarray = logits.numpy()
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


def first_line(error: Exception) -> str:
    """What an exception says first, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
