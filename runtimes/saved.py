"""A model on disk, as it is read to be scored, written with, exported and compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compiler import methods
from compiler.methods import Method
from compiler.plan import Train
from runtimes.together import part_folder

FRESH = "fresh"
"""Where a train step keeps the model that it drew, and began with, in its folder."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A PEFT folder, and the method that trained it."""

    folder: Path
    method: Method


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A transformers folder, or one with an adapter on it that is not merged into it.

    `before`: the model that training began with, where it is known; with the adapter that was merged into it.
    """

    folder: Path
    adapter: Adapter | None = None
    before: SavedModel | None = None

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its weights."""
        folders = [self.folder, *([self.adapter.folder] if self.adapter else [])]
        return tuple(file for folder in folders for file in sorted(folder.glob("*.safetensors")))

    @property
    def reading(self) -> Path:
        """The folder that says what the model is and how rows are read: configurations, tokenizer, image processor."""
        return self.folder if self.adapter is None else self.adapter.folder


def trained_folder(step: Train) -> str:
    """The name of the folder that a train step leaves: model, or adapter."""
    return methods.module_of(step.method).SAVES


def trained_model(step: Train, trained: Path, base: Path, part: str = "") -> SavedModel:
    """What a train step left in its folder, `base` being the model that it names. `part`: which of its tasks."""
    saves = trained_folder(step)
    folder = trained / saves / part
    if saves == "model":
        reads = methods.reads_weights(step.method)
        return SavedModel(folder, before=SavedModel(base if reads else part_folder(trained, part) / FRESH))
    return SavedModel(base, Adapter(folder, step.method))
