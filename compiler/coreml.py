"""The export coreml: which models there is one of, and that it is run by macOS alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler import methods, tasks
from compiler.auto import Choice
from compiler.diagnostics import Diagnostic

if TYPE_CHECKING:
    from compiler.facts import ModelFacts
    from compiler.recipe import Recipe
    from compiler.tasks import Task

INSTEAD = 'write {"format": "onnx"}'


def is_held(task: Task) -> bool:
    """Whether the model of a task answers at once, by a head over what an encoder reads."""
    return tasks.module_of(task).ARCHITECTURES[0] in ("encoder", "vision")


def check_coreml(recipe: Recipe) -> Iterator[Diagnostic]:
    """The task is answered at once, by the weights of a model and nothing beside them."""
    for index in _places(recipe):
        module = methods.module_of(recipe.method)
        if not is_held(recipe.task):
            known = ", ".join(sorted(f'"{name}"' for name, task in tasks.TASKS.items() if is_held(task)))
            message = f'Core ML packages are written for {known}, and the task is "{recipe.task.type}"'
            yield recipe.finding("R243", f"/export/{index}", message, INSTEAD)
        elif module.SAVES == "adapter" and not module.MERGES:
            message = f'a Core ML package has no place for what the method "{recipe.method.type}" adds to the model'
            yield recipe.finding("R243", f"/export/{index}", message, INSTEAD)


def check_encoder(recipe: Recipe, model: ModelFacts) -> Iterator[Diagnostic]:
    """The model reads a row at once: the mask of a decoder is another one."""
    for index in _places(recipe):
        if model.architecture == "decoder" and is_held(recipe.task):
            message = f"Core ML packages are written of encoders, and the model is a decoder ({model.model_type})"
            yield recipe.finding("R243", f"/export/{index}", message, INSTEAD)


def coreml_choices(recipe: Recipe) -> Iterator[Choice]:
    """Where the gate of such an export runs."""
    for index in _places(recipe):
        reason = "Core ML runs there alone: elsewhere the gate compares the traced model and the weights in the package"
        yield Choice(pointer=f"/export/{index}", value="proven on macOS", reason=reason)


def _places(recipe: Recipe) -> Iterator[int]:
    return (index for index, export in enumerate(recipe.export) if export.format == "coreml")
