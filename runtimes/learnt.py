"""What a task learns of validation rows beside the model's weights, in a step's folder as in a bundle."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from compiler.files import write_json
from compiler.tasks import Task
from runtimes import tasks
from runtimes.bundles.manifest import read_json

FOLDER = "learnt"


def write_learnt(planned: Task, task: Task, folder: Path) -> None:
    """Writes what a task has learnt since it was planned, into a step's folder; nothing where that is nothing."""
    if task == planned:
        return
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, content in tasks.module_of(task).bundle_files(task).items():
        write_json(folder / FOLDER / name, content)


def learnt(planned: Task, folder: Path) -> Task:
    """The task of a plan with what it has learnt: what `write_learnt` left in a step's folder."""
    if not (folder / FOLDER).is_dir():
        return planned
    return tasks.module_of(planned).from_bundle(planned, partial(read_json, folder / FOLDER))
