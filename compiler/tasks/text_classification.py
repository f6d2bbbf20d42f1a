"""text-classification: one label for a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.data.texts import label_of, text_of
from compiler.diagnostics import Diagnostic
from compiler.metrics import F1, Accuracy
from compiler.tasks import labels
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.last_token import check_padding
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.recipe import Recipe
    from compiler.tasks.interface import Targets

COLUMNS: Mapping[str, Kind] = {"text": "text", "label": "label"}
INPUTS = ("text",)
OPTIONAL: frozenset[str] = frozenset()
ARCHITECTURES = ("encoder", "decoder")
PACKING = "none"
SPECIAL_TOKENS = True
METRICS = ("accuracy", "f1", "precision", "recall", "matthews")
DEFAULT_METRICS = (Accuracy(), F1())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy",)
STRATIFIES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassification:
    """One label for a text. Columns: text, label."""

    type: Annotated[Literal["text-classification"], About("One label for a text. Columns: text, label.")] = (
        "text-classification"
    )
    labels: Annotated[
        tuple[str, ...] | Literal["auto"],
        About("Label names in order; a whole number in the data counts into them. auto: the labels in the data."),
    ] = "auto"


class Reader:
    """Reads a text and a label."""

    def __init__(self, task: TextClassification, columns: Mapping[str, str]) -> None:
        self.columns, self.found = columns, labels.LabelNumbers(task.labels)

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        text = text_of(values, self.columns["text"])
        label = label_of(values, self.columns["label"], self.found.declared)
        return Example(row={"text": text, "label": label}, target=self.found.number(label))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The text. Raises BadValueError."""
        return {"text": text_of(values, self.columns["text"])}

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names in order."""
        return self.found.labels

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] the number of each row's label."""
        return self.found.classes(targets)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """How many of the rows have each label."""
        return self.found.counts(targets)

    def values(self, targets: Targets) -> None:
        """Nothing: the answers are labels."""


def bind(task: TextClassification, tokenizer_file: Path) -> TextClassification:
    """The task as it is."""
    return task


def texts(task: TextClassification, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text."""
    return (row["text"],)


def reader(task: TextClassification, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(task, columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Findings about declared labels."""
    return labels.check_labels(recipe, _task(recipe).labels)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Findings about the labels of the rows."""
    odd = tuple(labels.check_label_column(recipe, _task(recipe).labels, data))
    yield from odd
    if odd:
        return  # the rest would follow from it
    yield from labels.check_label_rows(recipe, _task(recipe).labels, data)
    yield from labels.check_held_out_labels(recipe, _task(recipe).labels, data)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """What names a label that no row has, and a decoder that can't tell where a text ends."""
    yield from check_padding(recipe, model)
    yield from labels.check_found_labels(recipe, _task(recipe).labels, data)


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with its labels, and the head, weights and positive classes that follow from them."""
    from compiler.recipe import CrossEntropy

    names, keep_head, choices = labels.choose_labels(_task(recipe).labels, model, data)
    loss = recipe.training.loss or CrossEntropy()
    assert isinstance(loss, CrossEntropy), "checked by check_loss"
    return ResolvedTask(
        task=replace(_task(recipe), labels=names),
        loss=labels.weighted(loss, names, data),
        metrics=tuple(labels.with_positive(metric, names) for metric in recipe.metrics or DEFAULT_METRICS),
        keep_head=keep_head,
        choices=choices,
    )


def summary(data: DataFacts) -> str:
    """How many labels there are."""
    return f"{len(data.labels)} labels"


def _task(recipe: Recipe) -> TextClassification:
    assert isinstance(recipe.task, TextClassification), "the module is the task's"
    return recipe.task
