"""Scores of saved models by PyTorch: the source that the gate measures others against.

The untouched transformers (or peft) model, float32, eval mode, with tensor-float arithmetic off.
"""

# Axes: B = rows, C = outputs of a position

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtimes.protocol import Batch
from runtimes.pytorch.inputs import taken_inputs
from runtimes.pytorch.loading import load_saved
from runtimes.pytorch.objective import read_outputs, results_of
from runtimes.pytorch.precision import exact_float32
from runtimes.saved import SavedModel
from runtimes.tasks.interface import Head
from runtimes.verification.gate import ScoreFunction


def torch_scores(saved: SavedModel, head: Head, *, device: str = "cpu") -> ScoreFunction:
    """The outputs of batches by a saved model. Raises SourceError for a weight that is in none of its files."""
    return scores_of(load_saved(saved, head), head, device=device)


def scores_of(model: Any, head: Head, *, device: str = "cpu") -> ScoreFunction:
    """The outputs of batches by a loaded model; arrays that its `forward` does not take are left out."""
    model = model.to(device)

    def scores(batch: Batch) -> npt.NDArray[np.float32]:
        inputs, targets = taken_inputs(model, batch.inputs, device), torch.from_numpy(batch.targets).to(device)
        with torch.inference_mode(), exact_float32():
            found_logits = results_of(model(**inputs, **head.arguments), head.results).float()
            outputs = read_outputs(head.reading, found_logits, targets)
            found: npt.NDArray[np.float32] = outputs.cpu().numpy()
        return found

    return scores
