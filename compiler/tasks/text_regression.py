"""text-regression: a number for a text, or for a pair of texts; or with targets several of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.auto import Choice
from compiler.data.texts import number_of, texts_in
from compiler.diagnostics import Diagnostic, counted
from compiler.metrics import MAE, R2, RMSE, Pearson
from compiler.tasks import several_targets
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
ANSWER = "target"
OPTIONAL = NAMED = frozenset({"text_pair"})
ARCHITECTURES = ("encoder", "decoder")
PACKING = "none"
SPECIAL_TOKENS = True
METRICS = ("mse", "rmse", "mae", "pearson", "spearman", "r2")
DEFAULT_METRICS = (RMSE(), MAE(), Pearson(), R2())
_DEFAULT_OF_SEVERAL = (R2(), RMSE(), MAE(), Pearson())  # the first one chooses checkpoints: r2 has no unit
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("mse", "mae", "huber")
STRATIFIES = False
_FLOAT32 = 2.0**-23  # from 1 to the next number
_DIGITS = 6  # of the chosen mean and deviation: machines may differ in the last digits of a sum


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRegression:
    """A number for a text, or for two. Columns: text, target, or those of targets; text_pair where it is named."""

    type: Annotated[
        Literal["text-regression"],
        About(
            "A number for a text, or for two. Columns: text, target, or those of targets; text_pair where it is named."
        ),
    ] = "text-regression"
    targets: Annotated[
        tuple[str, ...],
        About(
            "Several numbers a row: the names of their columns, each an output of the model, instead of the column "
            "target. The loss is the mean over them, each in its own standard deviations; a metric is the mean over "
            "them, each in its own unit, and the report has it of each.",
            nonempty=True,
        ),
    ] = field(default=(), metadata={"later": True})
    mean: Annotated[
        float | tuple[float, ...] | Literal["auto"],
        About(
            "Taken off the targets while training and put back on; with targets, a list has one for each. auto: the "
            "mean of the train rows."
        ),
    ] = "auto"
    deviation: Annotated[
        float | tuple[float, ...] | Literal["auto"],
        About(
            "What the targets are divided by while training; with targets, a list has one for each. auto: the train "
            "rows' standard deviation.",
            above=0,
        ),
    ] = "auto"


def roles(task: TextRegression) -> Mapping[str, Kind]:
    """The texts, and each target by its name."""
    return several_targets.roles(COLUMNS, ANSWER, task.targets)


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

    def values(self, targets: Targets) -> tuple[ValueFacts, ...]:
        """How the targets lie; nothing without rows."""
        return (_value_facts(targets),) if len(targets) else ()


class SeveralReader(Reader):
    """Reads one or two texts and several numbers."""

    def __init__(self, task: TextRegression, columns: Mapping[str, str]) -> None:
        super().__init__(columns)
        self.targets = task.targets
        self.numbers = several_targets.NumberRows(len(task.targets))

    def read(self, values: Mapping[str, object]) -> Example:
        """A row. Raises BadValueError."""
        numbers = {name: number_of(values, self.columns[name]) for name in self.targets}
        return Example(row={**texts_in(values, self.columns), **numbers}, target=self.numbers.add([*numbers.values()]))

    def values(self, targets: Targets) -> tuple[ValueFacts, ...]:
        """How the numbers of each target lie; nothing without rows."""
        return tuple(map(_value_facts, self.numbers.of(targets).T)) if len(targets) else ()


def _value_facts(numbers: npt.NDArray[np.float64]) -> ValueFacts:
    from compiler.facts import ValueFacts

    return ValueFacts(
        mean=float(numbers.mean()),
        deviation=float(numbers.std()),
        minimum=float(numbers.min()),
        maximum=float(numbers.max()),
    )


def bind(task: TextRegression, tokenizer_file: Path) -> TextRegression:
    """The task as it is."""
    return task


def texts(task: TextRegression, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text, or the two."""
    return tuple(row[role] for role in INPUTS if role in row)


def pieces(task: TextRegression, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The text and the number, or each by its name."""
    answer = [f"{name} {row[name]}" for name in task.targets] if task.targets else row[ANSWER]
    return read_and_answered(texts(task, row), answer)


def reader(task: TextRegression, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return SeveralReader(task, columns) if task.targets else Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Label smoothing is for labels; targets have names of their own, and lists a number for each."""
    task = _task(recipe)
    yield from several_targets.check_targets(recipe, ANSWER, INPUTS, task.targets)
    written = {"mean": task.mean, "deviation": task.deviation}
    yield from several_targets.check_counts(recipe, task.targets, written)
    if recipe.wrote("/training/label_smoothing") is not None:
        message = f'nothing reads "label_smoothing" with the task "{recipe.task.type}"'
        yield recipe.finding("R202", "/training/label_smoothing", message, "remove it", key=True)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """The targets differ."""
    targets = _task(recipe).targets
    for place, facts in enumerate(data.values("train")):
        if facts.deviation > _FLOAT32 * max(abs(facts.minimum), abs(facts.maximum)):
            continue
        column = targets[place] if targets else recipe.dataset.columns.get(ANSWER, ANSWER)
        pointer = f"/task/targets/{place}" if targets else f"/dataset/columns/{ANSWER}"
        where = f' in the column "{column}"' if targets else ""
        message = f"all train rows have the target {facts.mean:g}{where}"
        hint = f'there is nothing to learn; is "{column}" the right column?'
        if facts.minimum != facts.maximum:
            message = f"the targets{where} differ by less than float32 can tell at the size of {facts.maximum:g}"
            hint = "take away in the data what they have in common"
        yield recipe.finding("R316", pointer, message, hint)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """A mean that was written has a bias to go into; a decoder can tell where a text ends."""
    yield from check_padding(recipe, model)
    mean = _task(recipe).mean
    has_mean = any(mean) if isinstance(mean, tuple) else mean not in ("auto", 0.0)
    if has_mean and not model.head_has_bias:
        message = f"the head of {model.model_type} has no bias that the mean could be put on"
        yield recipe.finding("R215", "/task/mean", message, 'write "mean": 0, or leave it out')


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with the mean and the deviation of the train rows; the head is always a new one."""
    from compiler.recipe import MeanSquaredError

    task, train = _task(recipe), data.values("train")
    assert train, "checked: train has rows"
    reason = "a number needs a head of one output"
    if task.targets:
        reason = f"the head has {counted(len(task.targets), 'output')}, one for each of {', '.join(task.targets)}"
    choices = [Choice(pointer="/model", value="new head", reason=reason)]
    if task.mean == "auto":
        mean, reason = _of_each(task, [_rounded(facts.mean) for facts in train]), "the mean of the train rows"
        if not model.head_has_bias:
            mean = _of_each(task, [0.0 for _ in train])
            reason = f"the head of {model.model_type} has no bias that it could be put on"
        task = replace(task, mean=mean)
        choices.append(Choice(pointer="/task/mean", value=mean, reason=reason))
    if task.deviation == "auto":
        deviation = _of_each(task, [_rounded(facts.deviation) for facts in train])
        task = replace(task, deviation=deviation)
        reason = "the standard deviation of the train rows"
        choices.append(Choice(pointer="/task/deviation", value=deviation, reason=reason))
    return ResolvedTask(
        task=task,
        loss=recipe.training.loss or MeanSquaredError(),
        metrics=recipe.metrics or (_DEFAULT_OF_SEVERAL if task.targets else DEFAULT_METRICS),
        keep_head=False,
        choices=tuple(choices),
    )


def summary(data: DataFacts) -> str:
    """Where the targets lie."""
    train = data.values("train")
    ranges = ", ".join(f"from {facts.minimum:g} to {facts.maximum:g}" for facts in train)
    return f"targets {ranges}" if train else "no targets"


def _of_each(task: TextRegression, numbers: list[float]) -> float | tuple[float, ...]:
    """A number for each target, or the only one."""
    return tuple(numbers) if task.targets else numbers[0]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _task(recipe: Recipe) -> TextRegression:
    assert isinstance(recipe.task, TextRegression), "the module is the task's"
    return recipe.task
