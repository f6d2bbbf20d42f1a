"""What a framework must supply: batches in, results out. All arrays are numpy; no framework is imported here."""

# B = batch, T = positions of a row, C = outputs of a position

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
LOSS = "loss"
"""What the loss of the only task is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows padded to one length. Rows of weight zero only fill the shape and count nowhere."""

    inputs: Mapping[str, npt.NDArray[Any]]  # by the model's argument name: input_ids [B, T], attention_mask, ...
    targets: npt.NDArray[Any]  # [B] one a row, [B, T], or [B, C] one an output: numbers of labels or tokens, or values
    weights: npt.NDArray[np.float32]  # of each target in the loss
    positions: npt.NDArray[
        np.bool_
    ]  # [B], or [B, T] as the targets: where a row has an answer, neither padding nor filling
    rows: npt.NDArray[np.int64]  # [B] row numbers in the split; -1 where the row only fills
    term: str = LOSS  # what the rows' loss is called: of several tasks, the name of theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """One optimizer step: the loss of each term, its sum over its denominator; the gradient's norm before clipping."""

    losses: Mapping[str, float]
    grad_norm: float


class PendingStep(Protocol):
    """A step that the device may still be at."""

    def result(self) -> StepResult:
        """The step's figures; waits for the device."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResults:
    """Figures of an evaluated batch: losses in the targets' shape, outputs of each row [B, C] or position [B, T, C]."""

    losses: npt.NDArray[np.float32]  # unweighted, not smoothed
    outputs: npt.NDArray[np.float32]  # [..., C] logits, readings of them, or values in the targets' unit


class OutOfMemory(Exception):
    """The device had no room for a step. The engine's parameters and optimizer are as before it."""


class Engine(Protocol):
    """A model, its trainable parameters and their optimizer on one device."""

    @property
    def fixed_shapes(self) -> bool:
        """Whether every batch must have its full number of rows: an engine that compiles a graph for each shape."""
        ...

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        *,
        denominators: Mapping[str, float],
        learning_rates: Sequence[float],
        seed: int,
        number: int = 0,
    ) -> PendingStep:
        """One optimizer step over micro-batches whose loss sums are divided by `denominators` once.

        `learning_rates`: one for each rate of the plan, today one. `seed` decides dropout and noise in this step and
        nothing else. `number`: how many steps were before it, by which parameters are unfrozen. Raises OutOfMemory
        with nothing changed.
        """
        ...

    def evaluate(self, batch: Batch) -> RowResults:
        """Figures of a batch with dropout off, by the average of the weights where one is kept; changes nothing."""
        ...

    def save_state(self, folder: Path) -> None:
        """Writes safetensors with torch names: trainable parameters, their average, buffers and optimizer moments.

        And what the method goes on from, where it does more than an optimizer does.
        """
        ...

    def load_state(self, folder: Path) -> None:
        """Takes up what save_state wrote."""
        ...

    def save_model(self, folder: Path) -> None:
        """Writes the tuned model as the ecosystem reads it: a transformers folder, or a PEFT folder."""
        ...

    @property
    def num_parameters(self) -> tuple[int, int]:
        """How many parameters are trained, and how many there are."""
        ...

    @property
    def num_graphs(self) -> int:
        """How many graphs were compiled, one for each shape of batches; 0 where nothing is compiled."""
        ...

    @property
    def frozen_bytes(self) -> tuple[int, int]:
        """Bytes of the parameters that are not trained: as they are held, and as float32 would hold them."""
        ...

    def peak_memory(self) -> int:
        """Most bytes held so far: on the device, or of the process on CPU."""
        ...
