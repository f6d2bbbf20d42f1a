"""What the tasks of language models have in common: their targets are tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler.diagnostics import Diagnostic

if TYPE_CHECKING:
    from compiler.recipe import Loss, Recipe


def check_language(recipe: Recipe) -> Iterator[Diagnostic]:
    """Classes have no weights where the targets are tokens."""
    if recipe.wrote("/training/loss/class_weights") is not None:
        message = f'nothing reads "class_weights" with the task "{recipe.task.type}"'
        yield recipe.finding("R202", "/training/loss/class_weights", message, "remove it", key=True)


def loss_of(recipe: Recipe) -> Loss:
    """The loss that is written, or else cross-entropy."""
    from compiler.recipe import CrossEntropy

    return recipe.training.loss or CrossEntropy()
