"""The data files of each split: found, inside the project, of a known format, with the columns that the task reads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from compiler import tasks
from compiler.data.hub_files import split_files, splits_of
from compiler.data.readers import SUFFIXES, DataError, columns_of, format_of, sha256_of_rows
from compiler.diagnostics import Diagnostic, Place, RecipeError, did_you_mean, stop_on_error
from compiler.facts import RowPlace, SplitName
from compiler.files import is_file, is_folder
from compiler.hub import Files, SourceError, Sources, open_dataset
from compiler.loading import shown_path
from compiler.plan import File
from compiler.project import Project, folder_of, recipe_folder
from compiler.recipe import Recipe, Split


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file: where it is on this machine, and what the plan says of it."""

    path: Path
    file: File

    def place(self, row: int, line: int) -> RowPlace:
        """Where a row stands in the file."""
        return RowPlace(file=shown_path(self.path), line=line, row=row)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFiles:
    """The files of a split, and the hub dataset they belong to."""

    files: tuple[DataFile, ...]
    dataset: str | None = None
    revision: str | None = None


def columns(recipe: Recipe) -> Mapping[str, str]:
    """From a column that the task reads to its name in the data."""
    return tasks.columns_of(recipe.task, recipe.dataset.columns)


def declared(recipe: Recipe) -> dict[SplitName, Split]:
    """The splits that a recipe has, by name."""
    dataset = recipe.dataset
    splits: dict[SplitName, Split | None] = {
        "train": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test,
    }
    return {name: split for name, split in splits.items() if split is not None}


def locate(recipe: Recipe, sources: Sources, allowed: tuple[Path, ...]) -> dict[SplitName, SplitFiles]:
    """The files of each split; a split with a fraction has those of train. Raises RecipeError with every finding."""
    found: list[Diagnostic] = []
    located: dict[SplitName, SplitFiles] = {}
    locator = _Locator(recipe, sources, Project.of(recipe_folder(recipe), allowed))
    for name, split in declared(recipe).items():
        try:
            located[name] = locator.split(name, split, located.get("train"))
        except RecipeError as error:
            found += error.diagnostics
    found += _check_columns(recipe, located)
    if found:
        raise RecipeError(found)
    return located


@dataclass(slots=True)
class _Locator:
    recipe: Recipe
    sources: Sources
    project: Project
    hub: Files | None = None

    def split(self, name: SplitName, split: Split, train: SplitFiles | None) -> SplitFiles:
        if split.path is not None:
            return self.path(f"/dataset/{name}/path", split.path)
        if split.name is not None:
            return self.named(f"/dataset/{name}/name", split.name)
        return train or SplitFiles(files=())

    def fail(self, code: str, pointer: str, message: str, hint: str) -> RecipeError:
        return RecipeError([self.recipe.finding(code, pointer, message, hint)])

    def path(self, pointer: str, written: str) -> SplitFiles:
        folder = folder_of(self.recipe, pointer)
        stop_on_error(self.project.check_path(folder, written, self.recipe.at(pointer), pointer))
        path = Path(os.path.normpath(folder / written))
        by_folder = is_folder(path) and tasks.reads(self.recipe.task) == "image"
        if not is_file(path) and not by_folder:
            raise self.fail("R301", pointer, *missing_file(path, written))
        stored = Path(os.path.relpath(path, recipe_folder(self.recipe))).as_posix()
        return SplitFiles(files=(self.file(path, stored, pointer),))

    def file(self, path: Path, stored: str, pointer: str) -> DataFile:
        form = "folder" if is_folder(path) else format_of(path)
        if form is None:
            hint = f"known formats: {', '.join(SUFFIXES)}"
            raise self.fail("R303", pointer, f'the suffix of "{path.name}" is no known data format', hint)
        try:
            digest = sha256_of_rows(path, form, self.sources.cache)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise self.fail("R301", pointer, f'"{stored}" can\'t be read: {reason}', "check its permissions") from None
        return DataFile(path, File(path=stored, format=form, sha256=digest))

    def named(self, pointer: str, split: str) -> SplitFiles:
        dataset = self.recipe.dataset.id
        assert dataset is not None, "checked by check_split_kinds"
        if tasks.reads(self.recipe.task) == "image":
            hint = 'download it, and name its folder or table as "path"'
            raise self.fail("R315", pointer, f"the images of the hub dataset {dataset} can't be read from there", hint)
        try:
            if self.hub is None:
                self.hub = open_dataset(dataset, self.recipe.dataset.revision, self.sources)
            names = self.names(pointer, split, self.hub)
            folder = self.hub.fetch(names)
        except SourceError as error:
            raise self.fail(error.code, "/dataset/id", error.message, error.hint) from None
        files = tuple(self.file(folder / name, name, pointer) for name in names)
        return SplitFiles(files=files, dataset=dataset, revision=self.hub.source.revision)

    def names(self, pointer: str, split: str, hub: Files) -> tuple[str, ...]:
        try:
            names = split_files(hub.names, split)
        except ValueError as error:
            message = f'the split "{split}" of the dataset {hub.source.id} can\'t be told: {error}'
            raise self.fail("R315", pointer, message, 'download the file that you mean and name it as "path"') from None
        if not names:
            message = f'the dataset {hub.source.id} has no split "{split}"'
            raise self.fail("R315", pointer, message, did_you_mean(split, splits_of(hub.names), noun="its splits"))
        return names


def missing_file(path: Path, written: str, start: str = "the file that writes them") -> tuple[str, str]:
    """The message and the hint about a file that is not there. `start`: where paths start from."""
    if is_folder(path):
        data = sorted(p.name for p in path.iterdir() if format_of(p))
        return f'"{written}" is a folder', f"name a file in it: {', '.join(data[:5]) or 'it has none'}"
    if not is_folder(path.parent):
        return f'there is no file "{written}"', f"nor a folder {shown_path(path.parent)}"
    beside = [p.name for p in path.parent.iterdir() if p.is_file() and format_of(p)]
    hint = did_you_mean(path.name, beside, noun="data files there")
    return f'there is no file "{written}"', hint if beside else f"paths start from {start}"


def _check_columns(recipe: Recipe, located: Mapping[SplitName, SplitFiles]) -> Iterator[Diagnostic]:
    """Every file has the columns that the task reads."""
    wanted = columns(recipe)
    reported: set[str] = set()
    for data in dict.fromkeys(data for split in located.values() for data in split.files):
        try:
            there = columns_of(data.path, data.file.format)
        except DataError as error:
            yield unreadable(error)
            continue
        if not there:
            continue  # no rows: said as an empty split
        for role, column in wanted.items():
            optional = role in tasks.module_of(recipe.task).OPTIONAL and role not in recipe.dataset.columns
            if column not in there and not optional and role not in reported:
                reported.add(role)
                yield _missing_column(recipe, role, column, data, there)


def unreadable(error: DataError) -> Diagnostic:
    """A reader's error as a finding."""
    place = Place(file=shown_path(error.path), line=max(error.line, 1))
    return Diagnostic(code="R305", at=place, message=error.message, hint=error.hint)


def _missing_column(recipe: Recipe, role: str, column: str, data: DataFile, there: tuple[str, ...]) -> Diagnostic:
    pointer = tasks.pointer_of(recipe.task, role)
    message = f'{shown_path(data.path)} has no column "{column}"'
    hint = did_you_mean(column, there, noun="its columns")
    if recipe.wrote(pointer) is None:
        pointer = "/dataset"
        message += f", which the task reads as its {role}"
        hint += f'; say which it is: "columns": {{"{role}": ...}}'
    return recipe.finding("R304", pointer, message, hint)
