"""The export mlx of what mlx-lm does not run: a function for MLX, traced once for each shape of a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compiler import tasks
from compiler.auto import Choice
from compiler.generation import Generation
from compiler.lengths import length_grid

if TYPE_CHECKING:
    from compiler.recipe import Export, Recipe
    from compiler.tasks import Task

SHORTEST = 16
BATCH_SIZES = (1, 4, 16)
"""Rows of a trace: more are cut into such portions, of which at most half is filled up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """The shapes that a function is traced at: each number of rows with each length."""

    batch_sizes: tuple[int, ...]
    lengths: tuple[int, ...]  # in tokens, ascending; none where a model reads no tokens
    written: tuple[int, ...] = field(default=(), metadata={"later": True})  # likewise of what a decoder writes

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.batch_sizes))
        read = f" by {len(self.lengths)} lengths up to {self.lengths[-1]} tokens" if self.lengths else ""
        written = f" read and {len(self.written)} up to {self.written[-1]} written" if self.written else ""
        return f"{rows} rows{read}{written}"


def is_function(export: Export, task: Task) -> bool:
    """Whether an export is a function for MLX: a language model is a folder for mlx-lm instead."""
    return export.format == "mlx" and not tasks.is_language_model(task)


def shapes_of(task: Task, max_length: int, generation: Generation | None = None) -> Shapes:
    """The grid of a task whose rows have at most so many tokens.

    Where texts are written, it is coarse: it has an axis more.
    """
    if tasks.reads(task) == "image":
        return Shapes(batch_sizes=BATCH_SIZES, lengths=())
    if (longest := tasks.longest_written(task)) is not None:
        most = max(longest, generation.max_new_tokens if generation else 0)
        return Shapes(batch_sizes=BATCH_SIZES, lengths=_doubled(max_length), written=_doubled(most))
    return Shapes(batch_sizes=BATCH_SIZES, lengths=length_grid(max_length))


def _doubled(longest: int) -> tuple[int, ...]:
    """Lengths from SHORTEST on, each twice the one before, up to the longest."""
    grid = [SHORTEST]
    while grid[-1] < longest:
        grid.append(2 * grid[-1])
    return (*grid[:-1], longest)


def function_choices(
    recipe: Recipe, task: Task, max_length: int, generation: Generation | None = None
) -> Iterator[Choice]:
    """The shapes that each function is traced at."""
    for index, export in enumerate(recipe.export):
        if is_function(export, task):
            shapes = shapes_of(task, max_length, generation)
            reason = "MLX has no function for any shape: what is between them is filled up"
            yield Choice(pointer=f"/export/{index}", value=str(shapes), reason=reason)
