"""What a task's module holds: its part of the language, how it reads rows, and what it resolves to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from compiler.auto import Choice
from compiler.diagnostics import Diagnostic
from compiler.metrics import Metric
from compiler.packing import Packing

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts, ValueFacts
    from compiler.recipe import Loss, Recipe
    from compiler.supervision import Segment
    from compiler.tasks import Task

    Targets = npt.NDArray[np.float64]
    """[N] the answer of each row as a number: of its label, or the value itself."""


Architecture = Literal["encoder", "decoder", "encoder-decoder", "vision"]
Kind = Literal["text", "label", "number", "conversation", "tokens", "tags", "spans", "answers", "image"]
"""What stands in a column: texts, names that repeat, numbers, messages and parts of a conversation; lists of words, of
their tags, of spans of a text; answers that are parts of one; images."""
Reads = Literal["text", "image"]
"""What a model is given, made by its tokenizer or by its image processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row as its task reads it: the JSON value of each role, and its answer as a number where it has one."""

    row: Mapping[str, Any]
    target: float = 0.0


class RowReader(Protocol):
    """Reads the rows of a data set, and knows afterwards what answers there are."""

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError for one that is not what the task reads."""
        ...

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """What the model reads of a row, by role: for a row without an answer. Raises BadValueError."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names in order, declared or found; none where answers are no labels."""
        ...

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] the class of each answer, by which a stratified split keeps its shares."""
        ...

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """How many of the answers are which label; empty where answers are no labels."""
        ...

    def values(self, targets: Targets) -> tuple[ValueFacts, ...]:
        """How each number lies that the rows have as their answers; nothing where these are no numbers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTask:
    """A task with nothing left open, what else of the recipe follows from it, and the choices that were made."""

    task: Task
    loss: Loss
    metrics: tuple[Metric, ...]
    keep_head: bool  # the model's own head answers this task
    choices: tuple[Choice, ...]


class TaskModule(Protocol):
    """One module a task."""

    COLUMNS: Mapping[str, Kind]
    """The roles of the columns that it reads, each with what stands in such a column."""
    INPUTS: tuple[str, ...]
    """The roles of what the model reads, the first one the chief; the others are of the answer."""
    OPTIONAL: frozenset[str]
    """The roles whose column may be missing."""
    NAMED: frozenset[str]
    """Those of them that are read only where the recipe names their column."""
    ARCHITECTURES: tuple[Architecture, ...]
    """The kinds of model that it tunes."""
    PACKING: Packing
    """How train rows share a sequence; none where they can't."""
    SPECIAL_TOKENS: bool
    """Whether the tokenizer puts its special tokens around what it is given."""
    METRICS: tuple[str, ...]
    DEFAULT_METRICS: tuple[Metric, ...]
    WRITTEN: tuple[str, ...]
    """Those of its metrics that are measured on texts that the model writes."""
    WRITES: bool
    """Whether the model answers by writing a text."""
    LOSSES: tuple[str, ...]
    """The first one is the default."""
    STRATIFIES: bool
    """Whether rows have classes, whose shares a split can keep."""

    def bind(self, task: Task, reader_file: Path) -> Task:
        """The task with what it takes from a model's tokenizer or image processor, and the files beside it.

        Raises ValueError with what is wrong.
        """
        ...

    def texts(self, task: Task, row: Mapping[str, Any]) -> tuple[str, ...]:
        """What of a row is tokenized together: one text, or a pair; none where the model reads no tokens."""
        ...

    def pieces(self, task: Task, row: Mapping[str, Any]) -> tuple[Segment, ...]:
        """What of an answered row is read and what is learnt, for a person. Raises BadValueError."""
        ...

    def reader(self, task: Task, columns: Mapping[str, str]) -> RowReader:
        """The reader of rows; `columns`: from role to the column's name."""
        ...

    def check(self, recipe: Recipe) -> Iterator[Diagnostic]:
        """Findings about the task's part of a recipe alone."""
        ...

    def check_data(self, recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
        """Findings about the rows' answers."""
        ...

    def check_facts(self, recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
        """What of the recipe does not fit the model or the rows' answers."""
        ...

    def resolve(self, recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
        """The task as it runs."""
        ...

    def summary(self, data: DataFacts) -> str:
        """A few words about the answers for a person: 2 labels."""
        ...
