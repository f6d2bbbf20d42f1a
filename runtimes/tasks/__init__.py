"""What each task does with rows and outputs: one module each, imported on use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import cast

from compiler.tasks import Task
from runtimes.tasks.interface import Answer, ExampleModule, Head, TaskModule, WindowedModule, WritingModule

__all__ = [
    "Answer",
    "ExampleModule",
    "Head",
    "TaskModule",
    "WindowedModule",
    "WritingModule",
    "example_module_of",
    "module_named",
    "module_of",
    "windowed_module_of",
    "writing_module_of",
]

MODULES: Mapping[str, str] = {
    "continued-pretraining": "runtimes.tasks.continued_pretraining",
    "image-classification": "runtimes.tasks.image_classification",
    "question-answering": "runtimes.tasks.question_answering",
    "summarization": "runtimes.tasks.sequence_to_sequence",
    "text-classification": "runtimes.tasks.text_classification",
    "text-generation": "runtimes.tasks.text_generation",
    "text-regression": "runtimes.tasks.text_regression",
    "text-to-text": "runtimes.tasks.sequence_to_sequence",
    "token-classification": "runtimes.tasks.token_classification",
    "translation": "runtimes.tasks.sequence_to_sequence",
}


def module_of(task: Task) -> TaskModule:
    """The module of a task."""
    return module_named(task.type)


def writing_module_of(task: Task) -> WritingModule:
    """The module of a task that answers by writing a text."""
    return cast(WritingModule, module_of(task))


def example_module_of(task: Task) -> ExampleModule:
    """The module of a task that can be asked after solved rows."""
    return cast(ExampleModule, module_of(task))


def windowed_module_of(task: Task) -> WindowedModule:
    """The module of a task that reads long rows in windows."""
    return cast(WindowedModule, module_of(task))


def module_named(name: str) -> TaskModule:
    """The module of a task by its word in recipes."""
    return cast(TaskModule, importlib.import_module(MODULES[name]))
