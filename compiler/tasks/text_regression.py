"""text-regression: a number for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.auto import Choice
from compiler.data.texts import number_of, texts_in
from compiler.diagnostics import Diagnostic
from compiler.metrics import MAE, R2, RMSE, Pearson
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.tasks.last_token import check_padding
from compiler.tasks.pieces import read_and_answered
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts, ValueFacts
    from compiler.recipe import Recipe
    from compiler.supervision import Segment
    from compiler.tasks.interface import Targets

COLUMNS: Mapping[str, Kind] = {"text": "text", "text_pair": "text", "target": "number"}
INPUTS = ("text", "text_pair")
OPTIONAL = NAMED = frozenset({"text_pair"})
ARCHITECTURES = ("encoder", "decoder")
PACKING = "none"
SPECIAL_TOKENS = True
METRICS = ("mse", "rmse", "mae", "pearson", "spearman", "r2")
DEFAULT_METRICS = (RMSE(), MAE(), Pearson(), R2())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("mse", "mae", "huber")
STRATIFIES = False
_DIGITS = 6  # of the chosen mean and deviation: machines may differ in the last digits of a sum


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRegression:
    """A number for a text, or for two. Columns: text, target; text_pair where it is named."""

    type: Annotated[
        Literal["text-regression"],
        About("A number for a text, or for two. Columns: text, target; text_pair where it is named."),
    ] = "text-regression"
    mean: Annotated[
        float | Literal["auto"],
        About("Taken off the targets while training and put back on. auto: the mean of the train rows."),
    ] = "auto"
    deviation: Annotated[
        float | Literal["auto"],
        About("What the targets are divided by while training. auto: the train rows' standard deviation.", above=0),
    ] = "auto"


class Reader:
    """Reads one or two texts and a number."""

    labels: tuple[str, ...] = ()

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = columns

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        target = number_of(values, self.columns["target"])
        return Example(row={**texts_in(values, self.columns), "target": target}, target=target)

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The text, or the two. Raises BadValueError."""
        return texts_in(values, self.columns)

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] zeros: the rows have no classes."""
        import numpy as np

        return np.zeros(len(targets), np.int64)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """None: the answers are numbers."""
        return {}

    def values(self, targets: Targets) -> ValueFacts | None:
        """How the targets lie; nothing without rows."""
        from compiler.facts import ValueFacts

        if not len(targets):
            return None
        return ValueFacts(
            mean=float(targets.mean()),
            deviation=float(targets.std()),
            minimum=float(targets.min()),
            maximum=float(targets.max()),
        )


def bind(task: TextRegression, tokenizer_file: Path) -> TextRegression:
    """The task as it is."""
    return task


def texts(task: TextRegression, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text, or the two."""
    return tuple(row[role] for role in INPUTS if role in row)


def pieces(task: TextRegression, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The text and the number."""
    return read_and_answered(texts(task, row), row["target"])


def reader(task: TextRegression, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Label smoothing is for labels."""
    if recipe.wrote("/training/label_smoothing") is not None:
        message = f'nothing reads "label_smoothing" with the task "{recipe.task.type}"'
        yield recipe.finding("R202", "/training/label_smoothing", message, "remove it", key=True)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """The targets differ."""
    train = data.values("train")
    if train is not None and train.minimum == train.maximum:
        column = recipe.dataset.columns.get("target", "target")
        message = f"all train rows have the target {train.mean:g}"
        hint = f'there is nothing to learn; is "{column}" the right column?'
        yield recipe.finding("R316", "/dataset/columns/target", message, hint)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """A mean that was written has a bias to go into; a decoder can tell where a text ends."""
    yield from check_padding(recipe, model)
    mean = _task(recipe).mean
    if mean not in ("auto", 0.0) and not model.head_has_bias:
        message = f"the head of {model.model_type} has no bias that the mean could be put on"
        yield recipe.finding("R215", "/task/mean", message, 'write "mean": 0, or leave it out')


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with the mean and the deviation of the train rows; the head is always a new one."""
    from compiler.recipe import MeanSquaredError

    task, train = _task(recipe), data.values("train")
    assert train is not None, "checked: train has rows"
    choices = [Choice(pointer="/model", value="new head", reason="a number needs a head of one output")]
    if task.mean == "auto":
        mean, reason = _rounded(train.mean), "the mean of the train rows"
        if not model.head_has_bias:
            mean, reason = 0.0, f"the head of {model.model_type} has no bias that it could be put on"
        task = replace(task, mean=mean)
        choices.append(Choice(pointer="/task/mean", value=mean, reason=reason))
    if task.deviation == "auto":
        deviation, reason = _rounded(train.deviation), "the standard deviation of the train rows"
        task = replace(task, deviation=deviation)
        choices.append(Choice(pointer="/task/deviation", value=deviation, reason=reason))
    return ResolvedTask(
        task=task,
        loss=recipe.training.loss or MeanSquaredError(),
        metrics=recipe.metrics or DEFAULT_METRICS,
        keep_head=False,
        choices=tuple(choices),
    )


def summary(data: DataFacts) -> str:
    """Where the targets lie."""
    train = data.values("train")
    return f"targets from {train.minimum:g} to {train.maximum:g}" if train else "no targets"


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _task(recipe: Recipe) -> TextRegression:
    assert isinstance(recipe.task, TextRegression), "the module is the task's"
    return recipe.task
