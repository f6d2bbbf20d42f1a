"""The format mlx: a folder for mlx-lm, or a function for MLX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compiler.functions import is_function
from compiler.recipe import Mlx
from compiler.tasks import Task
from runtimes.export import Stage
from runtimes.mlx import folder, function_writer
from runtimes.saved import SavedModel

write = folder.write
write_function = function_writer.write


def stages(export: Mlx, task: Task, saved: SavedModel, written: Path, device: str) -> Sequence[Stage]:
    """The stages after the saved model, the last one what is deployed."""
    module = function_writer if is_function(export, task) else folder
    return module.stages(export, task, saved, written, device)
