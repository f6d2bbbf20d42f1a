"""What a task's module holds: rows -> columns of arrays, losses, metrics, what is decided, and natural answers."""

# N = rows of a split, B = rows of a batch, C = outputs of a row

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import Example, Task
from runtimes.features import Column, Portion
from runtimes.gate import Decide, Scores
from runtimes.tokens import Encoder

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
Answer = dict[str, Any]
"""What a task answers for a row, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head that a model needs for a task. Answers are raw outputs * scale + shift, folded into what is saved."""

    auto_class: str  # of transformers
    peft_task: str  # one of peft's TaskType
    config: Mapping[str, Any]  # what config.json says of it
    num_outputs: int
    scale: float = 1.0
    shift: float = 0.0


class TaskModule(Protocol):
    """One module a task."""

    DECIDE: Decide | None
    """How outputs become decisions; None where they are the answer themselves."""

    def head(self, task: Task) -> Head:
        """The head that a model needs."""
        ...

    # --- rows -> arrays

    def columns(self, pad_token_id: int) -> tuple[Column, ...]:
        """The columns that `encode` fills, `targets` among them."""
        ...

    def encode(self, task: Task, examples: Sequence[Example], encoder: Encoder) -> Portion:
        """The columns of some rows."""
        ...

    def weights(self, task: Task, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
        """[B] of each row in the training loss."""
        ...

    # --- measuring

    def losses(self, loss: Loss, task: Task, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
        """[N] of each row: unweighted, not smoothed."""
        ...

    def score(self, task: Task, metrics: Sequence[Metric], targets: Array, outputs: Floats) -> dict[str, float]:
        """Each metric by its name."""
        ...

    def details(self, task: Task, targets: Array, outputs: Floats) -> dict[str, Any]:
        """What a report shows beside the metrics."""
        ...

    def detail_lines(self, details: Mapping[str, Any]) -> list[str]:
        """The details for a terminal."""
        ...

    def baseline(self, task: Task, train_targets: Array, count: int) -> tuple[str, Floats]:
        """What can be answered without looking at a row: its name, and the outputs [count, C] that say so."""
        ...

    # --- comparing

    def settle(self, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float) -> Scores:
        """The other side's outputs, but the source's where the difference is one that the gate excuses."""
        ...

    def probe_row(self, text: str) -> Mapping[str, Any]:
        """A row with a text that was made up."""
        ...

    # --- answering

    def answer(self, task: Task, outputs: Floats) -> Answer:
        """The natural answer for one row, from its outputs [C]."""
        ...

    def decision(self, answer: Answer) -> str | None:
        """The name of what was decided, where something is."""
        ...

    def line(self, answer: Answer) -> str:
        """The answer for a terminal."""
        ...

    def bundle_files(self, task: Task) -> Mapping[str, Any]:
        """The JSON files that say in a bundle what its outputs mean, beside config.json."""
        ...

    def from_bundle(self, task: Task, read: Callable[[str], Any]) -> Task:
        """The task as the files of a bundle say it. Raises ValueError with what is wrong."""
        ...

    def name_faults(self, task: Task, config: Any) -> tuple[int, tuple[str, ...]]:
        """How many names config.json has for outputs, and where they are not the task's."""
        ...
