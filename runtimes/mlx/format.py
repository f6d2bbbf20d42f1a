"""The format mlx: a folder for mlx-lm, or a function for MLX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from compiler.functions import Shapes, is_function
from compiler.recipe import Mlx
from compiler.tasks import Task
from runtimes import tasks
from runtimes.export import Stage, Written
from runtimes.mlx import folder, function_writer, sequence_writer
from runtimes.saved import SavedModel

write = folder.write


def write_function(export: Mlx, task: Task, saved: SavedModel, shapes: Shapes, out: Path, device: str) -> Written:
    """Writes a function for a kind of device. Raises RunError E501."""
    return _module(task).write(export, task, saved, shapes, out, device)


def stages(export: Mlx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The stages after the saved model, the last one what is deployed."""
    module = _module(task) if is_function(export, task) else folder
    return module.stages(export, task, saved, written, device)


def _module(task: Task) -> FunctionModule:
    """What writes a function of the models of a task."""
    return sequence_writer if tasks.module_of(task).head(task).encodes else function_writer


class FunctionModule(Protocol):
    """A module that writes functions."""

    def write(self, export: Mlx, task: Task, saved: SavedModel, shapes: Shapes, out: Path, device: str) -> Written:
        """Writes a function."""
        ...

    def stages(self, export: Mlx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
        """The stages after the saved model."""
        ...
