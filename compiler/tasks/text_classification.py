"""text-classification: one label for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.auto import Choice
from compiler.data.texts import label_of, labels_of, texts_in
from compiler.diagnostics import Diagnostic
from compiler.metrics import F1, Accuracy
from compiler.tasks import label_sets, labels
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.last_token import check_padding
from compiler.tasks.pieces import read_and_answered
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.recipe import Recipe
    from compiler.supervision import Segment
    from compiler.tasks.interface import Targets

COLUMNS: Mapping[str, Kind] = {"text": "text", "text_pair": "text", "label": "label"}
INPUTS = ("text", "text_pair")
OPTIONAL = NAMED = frozenset({"text_pair"})
ARCHITECTURES = ("encoder", "decoder")
PACKING = "none"
SPECIAL_TOKENS = True
METRICS = ("accuracy", "f1", "precision", "recall", "matthews", "auroc")
DEFAULT_METRICS = (Accuracy(), F1())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy", "focal", "binary-cross-entropy")
STRATIFIES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassification:
    """One label for a text, or for two. Columns: text, label; text_pair where it is named."""

    type: Annotated[
        Literal["text-classification"],
        About("One label for a text, or for two. Columns: text, label; text_pair where it is named."),
    ] = "text-classification"
    labels: Annotated[
        tuple[str, ...] | Literal["auto"],
        About("Label names in order; a whole number in the data counts into them. auto: the labels in the data."),
    ] = "auto"
    multi_label: Annotated[
        bool, About("A row has any number of labels: a list of them, or an object that has 0 or 1 for each.")
    ] = False
    threshold: Annotated[
        float | Literal["auto"],
        About(
            "With multi_label: the share at which a label is given. auto: for each label the one of the best F1 on the "
            "validation rows; 0.5 without them.",
            above=0,
            below=1,
        ),
    ] = "auto"
    thresholds: tuple[float, ...] = field(default=(), metadata={"hidden": True})
    """Of each label, once they are learnt."""


class Reader:
    """Reads one or two texts and a label."""

    def __init__(self, task: TextClassification, columns: Mapping[str, str]) -> None:
        self.columns, self.found = columns, labels.LabelNumbers(task.labels)

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        texts = texts_in(values, self.columns)
        label = label_of(values, self.columns["label"], self.found.declared)
        return Example(row={**texts, "label": label}, target=self.found.number(label))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The text, or the two. Raises BadValueError."""
        return texts_in(values, self.columns)

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

    def values(self, targets: Targets) -> tuple[()]:
        """Nothing: the answers are labels."""
        return ()


class SetReader(Reader):
    """Reads one or two texts and a list of labels."""

    def __init__(self, task: TextClassification, columns: Mapping[str, str]) -> None:
        super().__init__(task, columns)
        self.sets = label_sets.SetNumbers(task.labels)

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        texts = texts_in(values, self.columns)
        names = labels_of(values, self.columns["label"], self.found.declared)
        return Example(row={**texts, "label": list(names)}, target=self.sets.number(names))

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names in order."""
        return self.sets.labels

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] the number of each row's rarest label."""
        return self.sets.classes(targets)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """How many of the rows have each label."""
        return self.sets.counts(targets)


def bind(task: TextClassification, tokenizer_file: Path) -> TextClassification:
    """The task as it is."""
    return task


def texts(task: TextClassification, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text, or the two."""
    return tuple(row[role] for role in INPUTS if role in row)


def pieces(task: TextClassification, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The text and the label."""
    return read_and_answered(texts(task, row), row["label"])


def reader(task: TextClassification, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return SetReader(task, columns) if task.multi_label else Reader(task, columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Findings about declared labels, and what is said of the loss."""
    yield from labels.check_labels(recipe, _task(recipe).labels)
    yield from labels.check_label_loss(recipe)
    yield from labels.check_balanced_once(recipe)
    yield from label_sets.check_sets(recipe, sets=_task(recipe).multi_label)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Findings about the labels of the rows."""
    return labels.check_label_data(recipe, _task(recipe).labels, data)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """What names a label that no row has, and a decoder that can't tell where a text ends."""
    yield from check_padding(recipe, model)
    yield from labels.check_found_labels(recipe, _task(recipe).labels, data)


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with its labels, and the head, weights and positive classes that follow from them."""
    from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal

    task = _task(recipe)
    names, keep_head, choices = labels.choose_labels(task.labels, model, data)
    loss = recipe.training.loss or (BinaryCrossEntropy() if task.multi_label else CrossEntropy())
    assert isinstance(loss, (CrossEntropy, BinaryCrossEntropy, Focal)), "checked by check_loss"
    loss, said = labels.balanced(recipe, loss)
    choices = (*choices, *said)
    if task.multi_label and task.threshold == "auto":
        tuned = recipe.dataset.validation is not None
        reason = (
            "learnt: the best F1 of each label on the validation rows" if tuned else "no validation rows to tune on"
        )
        threshold: float | Literal["auto"] = "auto" if tuned else 0.5
        choices = (*choices, Choice(pointer="/task/threshold", value=threshold, reason=reason))
        task = replace(task, threshold=threshold)
    return ResolvedTask(
        task=replace(task, labels=names),
        loss=labels.weighted(loss, names, data, sets=task.multi_label),
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
