"""Held-out rows that a model has read where it was trained for something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from compiler.diagnostics import Diagnostic, counted
from compiler.facts import DataFacts
from compiler.recipe import Recipe


def check_leaks(recipe: Recipe, data: DataFacts, name: str, others: Mapping[str, DataFacts]) -> Iterator[Diagnostic]:
    """The held-out rows of a recipe are not among those that others train the same model on.

    `name`, and those of the others: what a message calls them.
    """
    trained = {other: train for other, theirs in others.items() if (train := theirs.split("train"))}
    for split in data.splits if trained else ():
        for other, train in trained.items():
            if split.rows.split == "train" or not (count := split.num_in(train)):
                continue
            rows = f"{counted(count, f'{split.rows.split} row')} of {name} stand{'s' if count == 1 else ''}"
            message = f"{rows} in train of {other}: the model has read {'it' if count == 1 else 'them'}"
            hint = "draw the rows of both alike: the same fraction and seed, and no stratify where one has classes"
            yield recipe.finding("R311", f"/dataset/{split.rows.split}", message, hint, severity="warning")
