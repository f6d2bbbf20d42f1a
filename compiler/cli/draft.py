"""The recipe that `recipe init` is about to write: what is wrong with it is said of the flag that would change it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from compiler import tasks
from compiler.cli.options import fact_source
from compiler.data.checks import check_data
from compiler.diagnostics import Diagnostic, Place, RecipeError, stop_on_error
from compiler.document import Document, parse
from compiler.driver import compile_recipe
from compiler.loading import shown_path
from compiler.placement import this_machine
from compiler.reading import read_recipe
from compiler.recipe import Recipe
from compiler.shorthand import expand
from compiler.tasks import Task

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
METHODS = ("full", "freeze", "head", "lora")
_COLUMNS = "/dataset/columns/"
_FLAGS = frozenset({"output"})  # of `recipe init` itself, and roles as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the recipe says."""

    name: str
    data: Path
    output: Path  # the file that it is to be written to
    task: Task
    columns: Mapping[str, str]  # role -> its column
    model: str = DEFAULT_MODEL
    method: str = "full"
    frozen_layers: int = 0  # of the method freeze

    def text(self) -> str:
        """The recipe as its file holds it."""
        freezes = self.method == "freeze"
        recipe = {
            "recipe": 1,
            "name": self.name,
            "task": self.task.type,
            "dataset": {
                "train": _relative(self.data, self.output),
                "validation": {"fraction": 0.1},
                "test": {"fraction": 0.1},
                "columns": dict(self.columns),
            },
            "model": self.model,
            "method": {"type": "freeze", "layers": self.frozen_layers} if freezes else self.method,
            "training": {"epochs": 3},
            "metrics": [metric.type for metric in tasks.module_of(self.task).DEFAULT_METRICS],
            "export": ["onnx"],
        }
        return json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"

    def document(self) -> Document:
        """The document of the recipe. Raises RecipeError."""
        root = parse(self.text(), str(self.output), folder=str(self.output.resolve().parent)).root
        return Document(expand(root), str(self.output))

    def recipe(self) -> Recipe:
        """The recipe, checked without facts. Raises RecipeError."""
        return read_recipe(self.document())


def _relative(data: Path, output: Path) -> str:
    return Path(os.path.relpath(data.resolve(), output.resolve().parent)).as_posix()


def check_rows(draft: Draft) -> None:
    """Nothing when the rows pass `recipe check`. Raises RecipeError."""
    with _said_of_flags(draft):
        recipe = draft.recipe()
        stop_on_error(check_data(recipe, None, fact_source(()).data(recipe, None)))


def half_frozen(draft: Draft) -> Draft:
    """The draft, in which the method freeze keeps half of the model's layers. Raises RecipeError without the model."""
    with _said_of_flags(draft):
        return replace(draft, frozen_layers=fact_source(()).model(draft.recipe()).num_layers // 2)


def check_draft(draft: Draft) -> None:
    """Nothing when the recipe passes `recipe check`. Raises RecipeError."""
    with _said_of_flags(draft):
        compile_recipe(draft.document(), fact_source(()), this_machine())


@contextmanager
def _said_of_flags(draft: Draft) -> Iterator[None]:
    """A block whose findings point at flags or at the rows, for the recipe's file is not there."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError([_said_of_flag(draft, found) for found in error.diagnostics]) from None


def _said_of_flag(draft: Draft, found: Diagnostic) -> Diagnostic:
    if found.at.file != str(draft.output):
        return found
    flag, value = _flag_of(draft, found.pointer)
    if not flag:
        return replace(found, at=Place(file=shown_path(draft.data)))
    at = Place(file=f"{flag} {value}", column=len(flag) + 2)
    return replace(found, at=at, hint=" ".join([*([found.hint] if found.hint else []), f"(name another with {flag})"]))


def _flag_of(draft: Draft, pointer: str) -> tuple[str, str]:
    """The flag that says what stands under a pointer, and its value; empty where no flag does."""
    role = pointer.removeprefix(_COLUMNS)
    if pointer.startswith(_COLUMNS) and role in draft.columns:
        return flag_of(role), draft.columns[role]
    values = {"name": draft.name, "model": draft.model, "method": draft.method}
    key = pointer.split("/")[1] if pointer else ""
    return (f"--{key}", values[key]) if key in values else ("", "")


def flag_of(role: str) -> str:
    """The flag that names the column of a role."""
    return f"--{role.replace('_', '-')}{'-column' if role in _FLAGS else ''}"
