"""The export mlx of what mlx-lm does not run: a function for MLX, traced once for each shape of a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler import tasks
from compiler.auto import Choice
from compiler.lengths import length_grid

if TYPE_CHECKING:
    from compiler.recipe import Export, Recipe
    from compiler.tasks import Task

BATCH_SIZES = (1, 4, 16)
"""Rows of a trace: more are cut into such portions, of which at most half is filled up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """The shapes that a function is traced at: each number of rows with each length."""

    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]  # in tokens, ascending; none where a model reads no tokens

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.batch_sizes))
        if not self.lengths:
            return f"{rows} rows"
        return f"{rows} rows by {len(self.lengths)} lengths up to {self.lengths[-1]} tokens"


def is_function(export: Export, task: Task) -> bool:
    """Whether an export is a function for MLX: a language model is a folder for mlx-lm instead."""
    return export.format == "mlx" and not tasks.is_language_model(task)


def shapes_of(task: Task, max_length: int) -> Shapes:
    """The grid of a task whose rows have at most so many tokens."""
    lengths = () if tasks.reads(task) == "image" else length_grid(max_length)
    return Shapes(batch_sizes=BATCH_SIZES, lengths=lengths)


def function_choices(recipe: Recipe, task: Task, max_length: int) -> Iterator[Choice]:
    """The shapes that each function is traced at."""
    for index, export in enumerate(recipe.export):
        if is_function(export, task):
            shapes = shapes_of(task, max_length)
            reason = "MLX has no function for any shape: what is between them is filled up"
            yield Choice(pointer=f"/export/{index}", value=str(shapes), reason=reason)
