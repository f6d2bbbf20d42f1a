"""What a task's module holds: rows -> columns of arrays, losses, metrics, what is decided, and natural answers."""

# P = positions: one a row, or one for each token of a row; C = outputs of a position

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from compiler.metrics import Metric
from compiler.recipe import Loss
from compiler.tasks import Example, Task
from runtimes.protocol import Batch
from runtimes.rows.features import Column, Portion, Ragged
from runtimes.rows.images import ImageReader
from runtimes.rows.tokens import Encoder
from runtimes.verification.gate import Decide, Scores

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
Reading = Literal["logits", "tokens", "spans"]
"""What is kept of a model's logits: all of them; of a language model a few figures for each token; of what marks a part
of a text, for each token how likely the part begins and ends there (see readings)."""
InputReader = Encoder | ImageReader
"""What rows are read with: a model's tokenizer, or its image processor."""
Side = Literal["beginning", "end"]
"""Of a text, where it is cut."""
Answer = dict[str, Any]
"""What a task answers for a row, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The token ids that an answer starts from, and the side at which those are missing that were too many."""

    ids: tuple[int, ...]
    cut: Side | None = None

    def last(self, most: int) -> Prompt:
        """At most so many of its tokens: the last ones."""
        return self if len(self.ids) <= most else Prompt(ids=self.ids[-most:], cut="beginning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head that a model needs for a task, and what is read from its logits.

    Answers are raw outputs * scale + shift, folded into what is saved: a number for all outputs, or one for each.
    """

    auto_class: str  # of transformers
    peft_task: str  # one of peft's TaskType; empty where it has none for the task
    config: Mapping[str, Any]  # what config.json says of it
    num_outputs: int  # of a position
    reading: Reading = "logits"
    results: tuple[str, ...] = ("logits",)  # of the model: several are stacked along a last axis
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the model's forward, beside its inputs
    encodes: bool = False  # an encoder reads, and a decoder with this head writes
    cached: bool = False  # its graph writes token after token, with a cache
    pretrained: bool = False  # the head came with the model: adapters leave it as it is
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    @property
    def units(self) -> tuple[float, ...]:
        """In what each output is compared where outputs have units of their own; one where they have not."""
        return self.scale if len(self.scale) > 1 else (1.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCard:
    """What a model's card says of its task, in the hub's words."""

    pipeline_tag: str  # what the hub sorts models by
    says: str  # what the model does
    pipeline: str = ""  # by which transformers.js answers as the bundle does; empty where it does not
    tags: tuple[str, ...] = ()


class Vary(Protocol):
    """Varies train rows as a function of (seed, epoch, row)."""

    def __call__(self, task: Any, batch: Batch, *, seed: int, epoch: int) -> Batch:
        """The batch that is learnt from, of one with the values as they are stored. It may have other targets."""
        ...


class TaskModule(Protocol):
    """One module a task."""

    VARY: Vary | None
    """How train rows are varied; None where they are the same in each epoch."""

    def decider(self, task: Task) -> Decide | None:
        """How outputs become decisions; None where they are the answer themselves."""
        ...

    def head(self, task: Task) -> Head:
        """The head that a model needs."""
        ...

    def card(self, task: Task) -> TaskCard:
        """What the model's card says of the task."""
        ...

    # --- rows -> arrays

    def columns(self, task: Task, pad_token_id: int) -> tuple[Column, ...]:
        """The columns that `encode` fills, `targets` among them."""
        ...

    def encode(self, task: Task, examples: Sequence[Example], encoder: InputReader) -> Portion:
        """The columns of some rows."""
        ...

    def weights(self, task: Task, loss: Loss, targets: Array) -> npt.NDArray[np.float32]:
        """The weight of each target in the training loss, in the shape of the batch's targets."""
        ...

    # --- measuring

    def losses(self, loss: Loss, task: Task, targets: Array, outputs: Floats) -> npt.NDArray[np.float64]:
        """[P] of each position: unweighted, not smoothed; zero where nothing is to be answered.

        [P, C] where each output has a target of its own.
        """
        ...

    def score(self, task: Task, metrics: Sequence[Metric], targets: Ragged, outputs: Ragged) -> dict[str, float]:
        """Each metric by its name."""
        ...

    def details(self, task: Task, targets: Ragged, outputs: Ragged, unlearnt: Ragged | None = None) -> dict[str, Any]:
        """What a report shows beside the metrics. `unlearnt`: the outputs of the baseline, where there is one."""
        ...

    def detail_lines(self, details: Mapping[str, Any]) -> list[str]:
        """The details for a terminal."""
        ...

    def baseline(self, task: Task, train_targets: Array, count: int) -> tuple[str, Floats] | None:
        """What can be answered without looking at a row: its name, and the outputs [count, C] that say so."""
        ...

    def learns(self, task: Task) -> bool:
        """Whether it learns something of the validation rows beside the model's weights."""
        ...

    def fit(self, task: Task, targets: Ragged, outputs: Ragged) -> Task:
        """The task with what it learns of the validation rows, as the kept weights answer them."""
        ...

    # --- comparing

    def settle(
        self, task: Task, source: Scores, other: Scores, excused: npt.NDArray[np.bool_], tolerance: float
    ) -> Scores:
        """The other side's outputs, but the source's where the difference is one that the gate excuses."""
        ...

    def probe_row(self, text: str) -> Mapping[str, Any]:
        """A row with a text, or a data URI of an image, that was made up, and no true answer or any."""
        ...

    # --- answering

    def answer(self, task: Task, row: Mapping[str, Any], outputs: Floats, encoder: InputReader) -> Answer:
        """The natural answer for one row, from the outputs of its positions [P, C]; of all of its windows."""
        ...

    def decision(self, task: Task, outputs: Floats) -> str | None:
        """The name of what the outputs [P, C] of one row decide, where they decide something."""
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


class WindowedModule(TaskModule, Protocol):
    """The module of a task that reads long rows in windows."""

    def windows(self, task: Task, rows: Sequence[Mapping[str, Any]], encoder: Encoder) -> list[list[dict[str, Any]]]:
        """The windows of each row, as rows by role that say under WINDOW which they are."""
        ...


class WritingModule(TaskModule, Protocol):
    """The module of a task that answers by writing a text."""

    def prompt(self, task: Task, row: Mapping[str, Any], encoder: Encoder) -> Prompt:
        """What the answer to a row starts from, within the encoder's length."""
        ...

    def end_tokens(self, task: Task, encoder: Encoder) -> tuple[int, ...]:
        """The tokens that end an answer, beside those that the model's configuration names."""
        ...

    def tokenizer_files(self, task: Task, tokenizer_file: Path) -> Mapping[str, str]:
        """The text files beside a tuned model's tokenizer that are others than its base's, by name."""
        ...

    def reference(self, task: Task, row: Mapping[str, Any]) -> str:
        """The text that a row should be answered with."""
        ...

    def written(self, task: Task, row: Mapping[str, Any], text: str) -> Answer:
        """The natural answer, from the text that was written."""
        ...

    def said(self, task: Task, text: str) -> str:
        """What of a text that was written is compared with a reference."""
        ...


class ExampleModule(WritingModule, Protocol):
    """The module of a task that can be asked after solved rows."""

    def is_solved(self, task: Task, row: Mapping[str, Any]) -> bool:
        """Whether a row asks something and has the answer."""
        ...

    def prompt_after(
        self, task: Task, row: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], encoder: Encoder
    ) -> tuple[int, ...] | None:
        """The token ids, uncut, that the answer to a row starts from after solved rows; None where it can't."""
        ...
