"""Labels: what the tasks share whose answer is one of a few names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from compiler.auto import Choice
from compiler.data.texts import label_names
from compiler.diagnostics import Diagnostic, did_you_mean, short
from compiler.document import escape
from compiler.metrics import Metric, OfClasses

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.recipe import LabelLoss, Recipe
    from compiler.tasks.interface import Targets

Labels = tuple[str, ...] | Literal["auto"]
_WEIGHTS = "/training/loss/class_weights/"
_UNEQUAL = 10  # times as many rows of one label as of another: from here on it is said
LISTED = 5  # findings of one kind; the rest is counted


class LabelNumbers:
    """The labels of rows as numbers: of the declared names, or of those found, in the order in which they came."""

    def __init__(self, declared: Labels) -> None:
        self.declared = None if declared == "auto" else declared
        self.numbers = {name: number for number, name in enumerate(self.declared or ())}

    def number(self, name: str) -> float:
        """The number of a label that stands in a row."""
        return float(self.numbers.setdefault(name, len(self.numbers)))

    @property
    def labels(self) -> tuple[str, ...]:
        """The names in order: as declared, or those found, sorted."""
        return self.declared or label_names(self.numbers)

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] the number of each row's label among `labels`."""
        import numpy as np

        places = {name: place for place, name in enumerate(self.labels)}
        final = np.array([places[name] for name in self.numbers], dtype=np.int64)
        return final[targets.astype(np.int64)] if len(targets) else np.zeros(0, np.int64)

    def counts(self, targets: Targets) -> dict[str, int]:
        """How many of the rows have each label."""
        import numpy as np

        counts = np.bincount(self.classes(targets), minlength=len(self.labels))
        return dict(zip(self.labels, counts.tolist(), strict=True))


# --- findings about the recipe alone


def check_labels(recipe: Recipe, labels: Labels) -> Iterator[Diagnostic]:
    """Declared labels are at least two, and each stands once; what names a label names one of them."""
    if labels == "auto":
        return
    if len(labels) < 2:
        yield recipe.finding("R208", "/task/labels", f"a classifier needs at least two labels, found {len(labels)}")
    for index, label in enumerate(labels):
        if label in labels[:index]:
            yield recipe.finding(
                "R208", f"/task/labels/{index}", f'the label "{short(label)}" stands twice', "remove one"
            )
    for pointer, label in named_labels(recipe):
        if label not in labels:
            hint = did_you_mean(short(label), map(short, labels), noun="labels")
            yield recipe.finding(
                "R208", pointer, f'"{short(label)}" is not a label', hint, key=pointer.startswith(_WEIGHTS)
            )


def named_labels(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every label that the recipe names outside of the task, with its pointer."""
    from compiler.recipe import BinaryCrossEntropy, CrossEntropy, Focal

    for index, metric in enumerate(recipe.metrics):
        if isinstance(metric, OfClasses) and metric.average == "binary" and metric.positive != "auto":
            yield f"/metrics/{index}/positive", metric.positive
    match recipe.training.loss:
        case CrossEntropy() | BinaryCrossEntropy() | Focal() as loss if isinstance(loss.class_weights, Mapping):
            yield from ((f"{_WEIGHTS}{escape(label)}", label) for label in loss.class_weights)


def check_label_loss(recipe: Recipe) -> Iterator[Diagnostic]:
    """Label smoothing is of cross-entropy: a focal loss would take the spread share for rows answered badly."""
    from compiler.recipe import Focal

    if isinstance(recipe.training.loss, Focal) and recipe.wrote("/training/label_smoothing") is not None:
        message, hint = 'nothing reads "label_smoothing" with the loss "focal"', "remove it, or use cross-entropy"
        yield recipe.finding("R202", "/training/label_smoothing", message, hint, key=True)


# --- findings about the rows


def check_label_column(recipe: Recipe, labels: Labels, data: DataFacts) -> Iterator[Diagnostic]:
    """Labels that are not declared repeat: there are at most half as many as rows."""
    from compiler.data.guesses import columns_in, other_task

    role = "label"
    column = recipe.dataset.columns.get(role, role)
    num_rows = sum(split.rows.num_rows for split in data.splits)
    found = dict.fromkeys(label for split in data.splits for label, count in split.label_counts.items() if count)
    if labels == "auto" and len(found) > 2 and 2 * len(found) > num_rows:
        [described] = columns_in({column: label} for label in found)
        other = other_task(recipe.task, role, described)
        message = f'{len(found):,} labels for {num_rows:,} rows: is "{column}" the right column?'
        hint = "labels repeat; if these are all there are, declare them in /task/labels"
        yield recipe.finding("R317", f"/dataset/columns/{role}", message, other or hint)


def check_label_rows(recipe: Recipe, labels: Labels, data: DataFacts) -> Iterator[Diagnostic]:
    """There are two labels or more, and train has rows of each that is declared."""
    column = recipe.dataset.columns.get("label", "label")
    if len(data.labels) < 2:
        found = f'all rows have the label "{short(data.labels[0])}"' if data.labels else "the rows have no label"
        hint = f'a classifier needs at least two; is "{column}" the right column?'
        yield recipe.finding("R308", "/dataset/columns/label", found, hint)
        return
    if labels == "auto":
        return
    train = data.label_counts("train")
    for label in [label for label in data.labels if not train.get(label)][:LISTED]:
        message = f'no train row has the label "{short(label)}"'
        seen = [name for name in data.labels if train.get(name)]
        hint = f"add rows of it, or remove it from the labels; train has {_listed(seen)}"
        yield recipe.finding("R308", f"/task/labels/{data.labels.index(label)}", message, hint)


def check_held_out_labels(recipe: Recipe, labels: Labels, data: DataFacts) -> Iterator[Diagnostic]:
    """Train and the held-out splits have rows of the same labels."""
    train = data.label_counts("train")
    for split in data.splits:
        name, counts = split.rows.split, split.label_counts
        if name == "train" or len(data.labels) < 2:
            continue
        only_here = [label for label in data.labels if counts.get(label) and not train.get(label)]
        missing = [label for label in data.labels if train.get(label) and not counts.get(label)]
        if only_here and labels == "auto":  # declared ones: check_label_rows has said it
            message = f"only {name} has rows of the label {_listed(only_here)}, so it can't be learnt"
            yield recipe.finding("R307", f"/dataset/{name}", message, "add train rows of it, or remove these")
        if missing:
            message = f"{name} has no rows of the label {_listed(missing)}, so its metrics say nothing about it"
            hint = f"add {name} rows of it"
            yield recipe.finding("R307", f"/dataset/{name}", message, hint, severity="warning")


def check_found_labels(recipe: Recipe, labels: Labels, data: DataFacts) -> Iterator[Diagnostic]:
    """What names a label names one that the rows have, where none are declared."""
    if labels != "auto":
        return
    for pointer, label in named_labels(recipe):
        if label not in data.labels:
            hint = did_you_mean(short(label), map(short, data.labels), noun="labels")
            yield recipe.finding("R208", pointer, f'no row has the label "{short(label)}"', hint)


def check_unequal(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """No label has many times the train rows of another, unless the recipe makes up for it."""
    from compiler.recipe import Focal

    counts = {label: count for label, count in data.label_counts("train").items() if count}
    loss = recipe.training.loss
    weighs = loss is not None and (isinstance(loss, Focal) or getattr(loss, "class_weights", "none") != "none")
    if recipe.training.balance is not None or weighs or len(counts) < 2:
        return
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    rare = [label for label, count in counts.items() if count * _UNEQUAL < counts[most]]
    if rare:
        other = f"; {len(rare)} of {len(counts)} labels have less than a tenth" if len(counts) > 2 else ""
        message = (
            f'train has {counts[most]:,} rows of "{short(most)}" and {counts[least]:,} of "{short(least)}", '
            f"{counts[most] / counts[least]:,.0f} times fewer{other}"
        )
        makes_up = '"class_weights": "balanced" in its loss' if recipe.within else '"balance": "weights" in /training'
        hint = f"{makes_up} makes up for it; accuracy says little here, f1 more"
        yield recipe.finding("R318", "/dataset/train", message, hint, severity="warning")


def check_balanced_once(recipe: Recipe) -> Iterator[Diagnostic]:
    """Weights are said once: as /training/balance, or as the loss's class_weights."""
    from compiler.recipe import BalanceWeights

    if isinstance(recipe.training.balance, BalanceWeights) and recipe.wrote(_WEIGHTS[:-1]) is not None:
        message, hint = 'nothing reads "class_weights" with a balance of weights', "keep one of the two"
        yield recipe.finding("R202", _WEIGHTS[:-1], message, hint, key=True)


def _listed(labels: list[str]) -> str:
    """The first few labels in quotes."""
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(f'"{short(label)}"' for label in labels[:LISTED]) + more


def check_label_data(recipe: Recipe, labels: Labels, data: DataFacts) -> Iterator[Diagnostic]:
    """Findings about the labels of the rows."""
    odd = tuple(check_label_column(recipe, labels, data))
    yield from odd
    if odd:
        return  # the rest would follow from it
    yield from check_label_rows(recipe, labels, data)
    yield from check_held_out_labels(recipe, labels, data)
    yield from check_unequal(recipe, data)


# --- choices


def choose_labels(
    labels: Labels, model: ModelFacts, data: DataFacts
) -> tuple[tuple[str, ...], bool, tuple[Choice, ...]]:
    """The labels in order, whether the model's own head is kept, and what is to be said about both."""
    found = data.labels
    if model.labels is not None and labels == "auto" and set(model.labels) == set(found):
        found = model.labels
    said = Choice(pointer="/task/labels", value=found, reason="the labels in the train rows")
    keep = model.labels == found
    head = Choice(pointer="/model", value="head kept", reason="the model's own head has these labels")
    if not keep:
        head = Choice(pointer="/model", value="new head", reason=_why_new(model, found))
    return found, keep, (*(() if labels != "auto" else (said,)), head)


def _why_new(model: ModelFacts, labels: tuple[str, ...]) -> str:
    if model.labels is None:
        return "the model has no classification head"
    same = sorted(model.labels) == sorted(labels)
    return "its labels are in another order" if same else "its labels are others"


def with_positive(metric: Metric, labels: tuple[str, ...]) -> Metric:
    """The metric with the class that a binary average scores: the last label where none is named."""
    if isinstance(metric, OfClasses) and metric.average == "binary" and metric.positive == "auto":
        return replace(metric, positive=labels[-1])
    return metric


def balanced(recipe: Recipe, loss: LabelLoss) -> tuple[LabelLoss, tuple[Choice, ...]]:
    """The loss with the weights that /training/balance asks for, and what is to be said of them."""
    from compiler.recipe import BalanceWeights

    if not isinstance(recipe.training.balance, BalanceWeights):
        return loss, ()
    said = Choice(pointer=_WEIGHTS[:-1], value="balanced", reason='/training/balance says "weights"')
    return replace(loss, class_weights="balanced"), (said,)


def weighted(loss: LabelLoss, labels: tuple[str, ...], data: DataFacts, *, sets: bool = False) -> LabelLoss:
    """The loss with a weight for each label, or with "none" where each weighs one. `sets`: rows have several labels."""
    weights = _weights(loss, labels, data, sets=sets)
    return replace(loss, class_weights=weights if set(weights.values()) != {1.0} else "none")


def _weights(loss: LabelLoss, labels: tuple[str, ...], data: DataFacts, *, sets: bool) -> dict[str, float]:
    match loss.class_weights:
        case "none":
            return dict.fromkeys(labels, 1.0)
        case "balanced":
            counts, rows = data.label_counts("train"), data.num_rows("train")
            if sets:
                return {name: max(1, rows - counts[name]) / counts[name] for name in labels}
            total = sum(counts.values())
            return {name: total / (len(labels) * counts[name]) if counts[name] else 1.0 for name in labels}
        case written:
            return {name: float(written.get(name, 1.0)) for name in labels}
