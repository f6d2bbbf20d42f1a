"""image-classification: one label for an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.auto import Choice
from compiler.data.images import image_of, shown
from compiler.data.texts import label_of
from compiler.diagnostics import Diagnostic
from compiler.images import PROCESSOR, read_processor
from compiler.metrics import F1, Accuracy
from compiler.tasks import labels
from compiler.tasks.interface import Architecture, Example, Kind, ResolvedTask
from compiler.tasks.pieces import read_and_answered
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.packing import Packing
    from compiler.recipe import Recipe
    from compiler.supervision import Segment
    from compiler.tasks.interface import Targets

COLUMNS: Mapping[str, Kind] = {"image": "image", "label": "label"}
INPUTS = ("image",)
OPTIONAL: frozenset[str] = frozenset()
NAMED: frozenset[str] = frozenset()
ARCHITECTURES: tuple[Architecture, ...] = ("vision",)
PACKING: Packing = "none"
SPECIAL_TOKENS = False
METRICS = ("accuracy", "f1", "precision", "recall", "matthews", "auroc")
DEFAULT_METRICS = (Accuracy(), F1())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy", "focal")
STRATIFIES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How train images are varied, anew in each epoch. Held-out images are read as they are."""

    flip: Annotated[bool, About("Half of the images are mirrored, left for right.")] = False
    crop: Annotated[
        int, About("Images are moved by up to this many pixels each way; what comes in is black.", minimum=0)
    ] = 0
    brightness: Annotated[
        float, About("Images are made lighter or darker, by up to this share of their values.", minimum=0, maximum=1)
    ] = 0.0
    contrast: Annotated[
        float, About("Differences from an image's mean grow or shrink, by up to this share.", minimum=0, maximum=1)
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageClassification:
    """One label for an image. Columns: image, label."""

    type: Annotated[Literal["image-classification"], About("One label for an image. Columns: image, label.")] = (
        "image-classification"
    )
    labels: Annotated[
        tuple[str, ...] | Literal["auto"],
        About("Label names in order; a whole number in the data counts into them. auto: the labels in the data."),
    ] = "auto"
    shape: Annotated[
        tuple[int, ...] | Literal["auto"],
        About("Channels, height and width of what the model reads. auto: as its image processor makes them."),
    ] = "auto"
    augmentation: Annotated[Augmentation, About("How train images are varied, anew in each epoch.")] = Augmentation()


class Reader:
    """Reads an image and a label."""

    def __init__(self, task: ImageClassification, columns: Mapping[str, str]) -> None:
        self.columns, self.found = columns, labels.LabelNumbers(task.labels)

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        image = image_of(values, self.columns["image"])
        label = label_of(values, self.columns["label"], self.found.declared)
        return Example(row={"image": image, "label": label}, target=self.found.number(label))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The image. Raises BadValueError."""
        return {"image": image_of(values, self.columns["image"])}

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


def bind(task: ImageClassification, reader_file: Path) -> ImageClassification:
    """The task with the shape that a preprocessor_config.json makes. Raises ValueError."""
    return shaped(task, read_processor(reader_file).shape)


def shaped(task: ImageClassification, shape: tuple[int, int, int]) -> ImageClassification:
    """The task with the shape that an image processor makes. Raises ValueError where it has another."""
    if task.shape not in ("auto", shape):
        written = " by ".join(map(str, task.shape))
        raise ValueError(f"/task/shape is {written}, and {PROCESSOR} makes {' by '.join(map(str, shape))}")
    return replace(task, shape=shape)


def texts(task: ImageClassification, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Nothing: no tokens are read."""
    return ()


def pieces(task: ImageClassification, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """What names the image, and the label."""
    return read_and_answered((shown(row["image"]),), row["label"])


def reader(task: ImageClassification, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(task, columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Findings about declared labels, and what is said of the loss."""
    yield from labels.check_labels(recipe, _task(recipe).labels)
    yield from labels.check_label_loss(recipe)
    yield from labels.check_balanced_once(recipe)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Findings about the labels of the rows."""
    return labels.check_label_data(recipe, _task(recipe).labels, data)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """What names a label that no row has."""
    return labels.check_found_labels(recipe, _task(recipe).labels, data)


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with its labels, and the head, weights and positive classes that follow from them."""
    from compiler.recipe import CrossEntropy, Focal

    task = _task(recipe)
    names, keep_head, choices = labels.choose_labels(task.labels, model, data)
    loss = recipe.training.loss or CrossEntropy()
    assert isinstance(loss, (CrossEntropy, Focal)), "checked by check_loss"
    loss, said = labels.balanced(recipe, loss)
    if recipe.wrote("/task/shape") is None:
        shape = " by ".join(map(str, task.shape))
        said += (Choice(pointer="/task/shape", value=shape, reason="what the model's image processor makes"),)
    return ResolvedTask(
        task=replace(task, labels=names),
        loss=labels.weighted(loss, names, data),
        metrics=tuple(labels.with_positive(metric, names) for metric in recipe.metrics or DEFAULT_METRICS),
        keep_head=keep_head,
        choices=(*choices, *said),
    )


def summary(data: DataFacts) -> str:
    """How many labels there are."""
    return f"{len(data.labels)} labels"


def _task(recipe: Recipe) -> ImageClassification:
    assert isinstance(recipe.task, ImageClassification), "the module is the task's"
    return recipe.task
