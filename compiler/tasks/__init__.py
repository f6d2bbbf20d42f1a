"""Tasks: one module each, with its part of the language, its columns, its metrics and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never, cast

from compiler.tasks import text_classification, text_regression
from compiler.tasks.interface import Example, ResolvedTask, RowReader, TaskModule
from compiler.tasks.text_classification import TextClassification
from compiler.tasks.text_regression import TextRegression

__all__ = [
    "COLUMNS",
    "Example",
    "ResolvedTask",
    "RowReader",
    "Task",
    "TaskModule",
    "TextClassification",
    "TextRegression",
    "columns_of",
    "module_of",
    "texts_of",
]

Task = TextClassification | TextRegression
COLUMNS = tuple(dict.fromkeys([*text_classification.COLUMNS, *text_regression.COLUMNS]))
"""Every role that some task reads a column for."""


def module_of(task: Task) -> TaskModule:
    """The module of a task."""
    match task:
        case TextClassification():
            return cast(TaskModule, text_classification)
        case TextRegression():
            return cast(TaskModule, text_regression)
        case _:
            assert_never(task)


def texts_of(task: Task, row: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a row, given by role, the model reads: one text, or a pair."""
    return tuple(row[role] for role in module_of(task).TEXTS)


def columns_of(task: Task, named: Mapping[str, str]) -> dict[str, str]:
    """From each role of a task to the name of its column: the one that the recipe gives, or else the role itself."""
    return {role: named.get(role, role) for role in module_of(task).COLUMNS}
