"""Tasks: one module each, with its part of the language, its columns, its metrics and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never, cast, get_args

from compiler.tasks import (
    continued_pretraining,
    question_answering,
    text_classification,
    text_generation,
    text_regression,
    token_classification,
)
from compiler.tasks.continued_pretraining import ContinuedPretraining
from compiler.tasks.interface import Example, Kind, ResolvedTask, RowReader, TaskModule
from compiler.tasks.question_answering import QuestionAnswering
from compiler.tasks.text_classification import TextClassification
from compiler.tasks.text_generation import TextGeneration
from compiler.tasks.text_regression import TextRegression
from compiler.tasks.token_classification import TokenClassification

__all__ = [
    "COLUMNS",
    "TASKS",
    "ContinuedPretraining",
    "Example",
    "Kind",
    "QuestionAnswering",
    "ResolvedTask",
    "RowReader",
    "Task",
    "TaskModule",
    "TextClassification",
    "TextGeneration",
    "TextRegression",
    "TokenClassification",
    "answer_of",
    "columns_of",
    "module_of",
    "texts_of",
]

Task = (
    TextClassification
    | TextRegression
    | TokenClassification
    | QuestionAnswering
    | TextGeneration
    | ContinuedPretraining
)
TASKS: Mapping[str, Task] = {owner().type: owner() for owner in get_args(Task)}
"""Every task by its name, with its defaults."""
COLUMNS: Mapping[str, Kind] = {
    **text_generation.COLUMNS,
    **text_classification.COLUMNS,
    **text_regression.COLUMNS,
    **token_classification.COLUMNS,
    **continued_pretraining.COLUMNS,
    **question_answering.COLUMNS,
}
"""Every role that some task reads a column for, with what stands in such a column."""


def module_of(task: Task) -> TaskModule:
    """The module of a task."""
    match task:
        case TextClassification():
            return cast(TaskModule, text_classification)
        case TextRegression():
            return cast(TaskModule, text_regression)
        case TokenClassification():
            return cast(TaskModule, token_classification)
        case QuestionAnswering():
            return cast(TaskModule, question_answering)
        case TextGeneration():
            return cast(TaskModule, text_generation)
        case ContinuedPretraining():
            return cast(TaskModule, continued_pretraining)
        case _:
            assert_never(task)


def texts_of(task: Task, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a row, given by role, is tokenized together: one text, or a pair."""
    return module_of(task).texts(task, row)


def columns_of(task: Task, named: Mapping[str, str]) -> dict[str, str]:
    """From each role that is read to the name of its column: the one that the recipe gives, or else the role itself."""
    module = module_of(task)
    return {role: named.get(role, role) for role in module.COLUMNS if role in named or role not in module.NAMED}


def answer_of(task: Task) -> str | None:
    """The role of what the model is to answer: of the column that it does not read. None where it reads all."""
    module = module_of(task)
    return next((role for role in module.COLUMNS if role not in module.INPUTS), None)
