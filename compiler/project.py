"""The folders that a recipe may read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.diagnostics import Diagnostic, Place
from compiler.files import is_file, is_folder, real_path
from compiler.hub import is_path

if TYPE_CHECKING:
    from compiler.recipe import Recipe


def recipe_folder(recipe: Recipe) -> Path:
    """The folder of the recipe's file; of a recipe that is not in a file, the working folder."""
    return Path(recipe.document.root.folder or Path.cwd())


def folder_of(recipe: Recipe, pointer: str) -> Path:
    """The folder that a path in the recipe starts from: that of the file which wrote it."""
    node = recipe.wrote(pointer)
    return Path(node.folder) if node is not None and node.folder else recipe_folder(recipe)


def path_from_recipe(recipe: Recipe, folder: Path) -> str:
    """A folder as a path that starts from the recipe's folder, in posix form with ./ or ../ in front."""
    path = Path(os.path.relpath(folder, recipe_folder(recipe))).as_posix()
    return path if path.startswith("..") else f"./{path}"


@dataclass(frozen=True, slots=True)
class Project:
    """A project's root and the folders outside of it that the command line allows."""

    root: Path
    allowed: tuple[Path, ...]

    @staticmethod
    def of(folder: Path, allowed: tuple[Path, ...]) -> Project:
        """The project of a recipe's folder: the nearest one above with .git, else its own or the working folder."""
        folder = real_path(folder) or folder
        for above in (folder, *folder.parents):
            if is_folder(above / ".git") or is_file(above / ".git"):
                return Project(above, allowed)
        here = Path.cwd().resolve()
        return Project(here if folder.is_relative_to(here) else folder, allowed)

    def contains(self, path: Path) -> bool:
        """Whether a path stays inside, links followed. What can't be a path leads nowhere: whoever opens it says so."""
        real = real_path(path)
        return real is None or any(real.is_relative_to(root.resolve()) for root in (self.root, *self.allowed))

    def check_path(self, folder: Path, written: str, at: Place, pointer: str) -> Iterator[Diagnostic]:
        """A path that starts from a folder may not leave the project."""
        target = folder / written
        if not self.contains(target):
            message = f'"{written}" is outside of the project {self.root}'
            hint = f"copy it into the project, or allow its folder: --allow {os.path.normpath(target.parent)}"
            yield Diagnostic(code="R302", at=at, pointer=pointer, message=message, hint=hint)

    def check_model_path(self, recipe: Recipe) -> Iterator[Diagnostic]:
        """A model's folder may not be outside of the project."""
        pointer, folder = "/model/id", folder_of(recipe, "/model/id")
        if is_path(recipe.model.id) or is_folder(folder / recipe.model.id):
            yield from self.check_path(folder, recipe.model.id, recipe.at(pointer), pointer)
