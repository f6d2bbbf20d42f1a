"""Tasks: one module each, with its part of the language, its columns, its metrics and its checks."""

from __future__ import annotations

from types import ModuleType

from compiler.tasks import text_classification
from compiler.tasks.text_classification import TextClassification

Task = TextClassification
COLUMNS = text_classification.COLUMNS
"""Every column that some task reads."""


def module_of(task: Task) -> ModuleType:
    """The module of a task: COLUMNS, METRICS, LOSSES, DEFAULT_METRICS."""
    match task:
        case TextClassification():
            return text_classification
