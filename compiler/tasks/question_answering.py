"""question-answering: the part of a context that answers a question, or that none does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from compiler.auto import Choice
from compiler.data.answers import ANSWERED, accepted_of, single_of
from compiler.data.texts import text_of
from compiler.diagnostics import Diagnostic
from compiler.metrics import AnswerExact, AnswerF1
from compiler.tasks.interface import Example, Kind, ResolvedTask
from compiler.typed import About

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from compiler.facts import DataFacts, ModelFacts
    from compiler.packing import Packing
    from compiler.recipe import Recipe
    from compiler.supervision import Segment
    from compiler.tasks.interface import Architecture, Targets

COLUMNS: Mapping[str, Kind] = {
    "context": "text",
    "question": "text",
    "answers": "answers",
    "answer": "text",
    "answer_start": "number",
}
INPUTS = ("context", "question")
OPTIONAL = frozenset({"answers", "answer", "answer_start"})
NAMED: frozenset[str] = frozenset()
ARCHITECTURES: tuple[Architecture, ...] = ("encoder",)
PACKING: Packing = "none"
SPECIAL_TOKENS = True
METRICS = ("answer-exact", "answer-f1")
DEFAULT_METRICS = (AnswerExact(), AnswerF1())
WRITTEN: tuple[str, ...] = ()
WRITES = False
LOSSES = ("cross-entropy",)
STRATIFIES = False
HEAD = "ForQuestionAnswering"
"""How the architectures end that have such a head."""
UNANSWERED = "no answer"
_ABOUT = (
    "The part of a context that answers a question. Columns: question, context and answers, or answer and its start."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswering:
    """The part of a context that answers a question. Columns: question, context and answers, or answer and its start.

    Answers are as SQuAD has them: texts of the context, each with the character that it starts at. The first is
    learnt, any of them is right. A context that is too long is read in windows.
    """

    type: Annotated[Literal["question-answering"], About(_ABOUT)] = "question-answering"
    stride: Annotated[
        int | Literal["auto"],
        About(
            "A context that is too long is read in windows: tokens from the start of one to that of the next, at "
            "most half of max_length. auto: half of it.",
            minimum=1,
        ),
    ] = "auto"
    max_answer_length: Annotated[int, About("Tokens of the longest answer that is given.", minimum=1)] = 30
    no_answer: Annotated[
        bool | Literal["auto"],
        About("Whether the answer may be that there is none. auto: where a train row has none."),
    ] = "auto"

    def window_step(self, max_length: int) -> int:
        """Tokens from the start of a window of a context to that of the next."""
        half = max(1, max_length // 2)
        return half if self.stride == "auto" else min(self.stride, half)


class Reader:
    """Reads a question, a context and its answers."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = columns

    def read(self, values: Mapping[str, object]) -> Example:
        """A row; its answer is 1 where there is one. Raises BadValueError."""
        given = self.given(values)
        named = self.columns["answers"]
        answers = (
            accepted_of(values, named, given["context"])
            if values.get(named) is not None or self.columns["answer"] not in values
            else single_of(values, self.columns["answer"], self.columns["answer_start"], given["context"])
        )
        return Example(row={**given, "answers": answers}, target=float(bool(answers)))

    def given(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        """The question and the context. Raises BadValueError."""
        return {role: text_of(values, self.columns[role]) for role in ("question", "context")}

    @property
    def labels(self) -> tuple[str, ...]:
        """None: the answers are no labels."""
        return ()

    def classes(self, targets: Targets) -> npt.NDArray[np.int64]:
        """[N] zeros: rows have no classes."""
        import numpy as np

        return np.zeros(len(targets), np.int64)

    def label_counts(self, targets: Targets) -> Mapping[str, int]:
        """How many rows have an answer, and how many have none."""
        answered = int(targets.sum())
        return {ANSWERED: answered, UNANSWERED: len(targets) - answered}

    def values(self, targets: Targets) -> tuple[()]:
        """Nothing: the answers are no numbers."""
        return ()


def bind(task: QuestionAnswering, reader_file: Path) -> QuestionAnswering:
    """The task as it is."""
    return task


def texts(task: QuestionAnswering, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The context and the question."""
    return (row["context"], row["question"])


def pieces(task: QuestionAnswering, row: Mapping[str, Any]) -> tuple[Segment, ...]:
    """The question and the context, in which the answer is learnt; that there is none, in front of it."""
    from compiler.supervision import Segment

    asked, context = Segment(row["question"] + "\n", supervised=False), row["context"]
    if not row["answers"]:
        return asked, Segment(UNANSWERED, supervised=True), Segment("\n" + context, supervised=False)
    first = row["answers"][0]
    start, end = first["start"], first["start"] + len(first["text"])
    parts = ((context[:start], False), (context[start:end], True), (context[end:], False))
    return (asked, *(Segment(text, supervised) for text, supervised in parts))


def reader(task: QuestionAnswering, columns: Mapping[str, str]) -> Reader:
    """The reader of rows."""
    return Reader(columns)


def check(recipe: Recipe) -> Iterator[Diagnostic]:
    """Classes have no weights where there are none."""
    from compiler.recipe import CrossEntropy

    loss = recipe.training.loss
    if isinstance(loss, CrossEntropy) and recipe.wrote("/training/loss/class_weights") is not None:
        hint = "remove it: tokens are no classes"
        message = f'nothing reads "class_weights" with the task "{recipe.task.type}"'
        yield recipe.finding("R202", "/training/loss/class_weights", message, hint, key=True)


def check_data(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Some train row has an answer."""
    counts = data.label_counts("train")
    if not counts.get(ANSWERED, 0):
        message = "no train row has an answer"
        hint = "there is nothing to learn; are these the right columns?"
        yield recipe.finding("R308", "/dataset/columns", message, hint)


def check_facts(recipe: Recipe, model: ModelFacts, data: DataFacts) -> Iterator[Diagnostic]:
    """Nothing that model and rows could say beside it."""
    yield from ()


def resolve(recipe: Recipe, model: ModelFacts, data: DataFacts) -> ResolvedTask:
    """The task with whether there may be no answer, and what head answers it."""
    from compiler.recipe import CrossEntropy

    task, choices = _task(recipe), []
    if task.no_answer == "auto":
        without = data.label_counts("train").get(UNANSWERED, 0)
        reason = f"{without:,} train rows have none" if without else "every train row has one"
        choices.append(Choice(pointer="/task/no_answer", value=bool(without), reason=reason))
        task = replace(task, no_answer=bool(without))
    keep_head = any(name.endswith(HEAD) for name in model.architectures)
    said = "its own head answers the task" if keep_head else "its own head, if any, is for another task"
    choices.append(Choice(pointer="/model", value="head kept" if keep_head else "new head", reason=said))
    loss = recipe.training.loss or CrossEntropy()
    assert isinstance(loss, CrossEntropy), "checked by check_loss"
    return ResolvedTask(
        task=task,
        loss=replace(loss, class_weights="none"),
        metrics=recipe.metrics or DEFAULT_METRICS,
        keep_head=keep_head,
        choices=tuple(choices),
    )


def summary(data: DataFacts) -> str:
    """How many rows have no answer."""
    without = sum(split.label_counts.get(UNANSWERED, 0) for split in data.splits)
    return f"{without:,} rows without an answer" if without else "every row has an answer"


def _task(recipe: Recipe) -> QuestionAnswering:
    assert isinstance(recipe.task, QuestionAnswering), "the module is the task's"
    return recipe.task
