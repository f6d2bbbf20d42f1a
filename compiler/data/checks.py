"""What is wrong with a recipe's splits and rows. Findings about single files and rows are made where they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compiler import tasks
from compiler.diagnostics import Diagnostic
from compiler.lengths import auto_length
from compiler.precisions import check_calibration
from compiler.windows import Windowed

if TYPE_CHECKING:
    from compiler.facts import DataFacts, ModelFacts
    from compiler.plan import File
    from compiler.recipe import Recipe, Split


def _splits(recipe: Recipe) -> Iterator[tuple[str, Split]]:
    for name in ("train", "validation", "test"):
        split: Split | None = getattr(recipe.dataset, name)
        if split is not None:
            yield name, split


def check_split_kinds(recipe: Recipe) -> Iterator[Diagnostic]:
    """A split is one of a path, a name and a fraction, and what that needs is there. Looks at no file."""
    for name, split in _splits(recipe):
        yield from _check_kind(recipe, f"/dataset/{name}", split)
    names = [name for name, split in _splits(recipe) if split.name is not None]
    if recipe.dataset.id is not None and not names:
        hint = 'name the splits: "train": {"name": "train"}'
        yield recipe.finding("R206", "/dataset/id", "no split names a split of the hub dataset", hint)
    fractions = sum(split.fraction or 0.0 for name, split in _splits(recipe) if name != "train")
    if fractions >= 1:
        message = f"validation and test take {fractions:g} of the train rows, none is left"
        yield recipe.finding("R206", "/dataset", message, "let the fractions add up to less than 1")


def _check_kind(recipe: Recipe, pointer: str, split: Split) -> Iterator[Diagnostic]:
    kinds = [key for key in ("path", "name", "fraction") if getattr(split, key) is not None]
    train = pointer == "/dataset/train"
    choices = '"path" or "name"' if train else '"path", "name" or "fraction"'
    if len(kinds) != 1:
        message = "the split says both " + " and ".join(kinds) if kinds else "the split says nowhere to take rows from"
        yield recipe.finding("R206", pointer, message, f"it has one of {choices}")
    elif train and split.fraction is not None:
        message = "train can't be a fraction: the others take their share of it"
        yield recipe.finding("R206", f"{pointer}/fraction", message, f"it has one of {choices}")
    elif split.name is not None and recipe.dataset.id is None:
        message = f'"{split.name}" names a split of a hub dataset, but there is no /dataset/id'
        hint = 'add the dataset\'s "id", or name a file as "path"'
        yield recipe.finding("R206", f"{pointer}/name", message, hint)


def check_data(recipe: Recipe, model: ModelFacts | None, data: DataFacts) -> Iterator[Diagnostic]:
    """Every finding about the rows as a whole."""
    empty = tuple(check_empty_splits(recipe, data))
    yield from empty
    if empty:
        return  # the rest would follow from it
    yield from tasks.module_of(recipe.task).check_data(recipe, data)
    yield from check_lengths(recipe, model, data)
    yield from check_overlaps(recipe, data)
    yield from check_calibration(recipe, data)


def check_empty_splits(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Every split has rows. Of files without a row it is said once, not of every split that takes a share of them."""
    empty: set[tuple[File, ...]] = set()
    for split in data.splits:
        name, rule = split.rows.split, split.rows
        if rule.num_rows or rule.files in empty:
            continue
        if not any(other.rows.num_rows for other in data.splits if other.rows.files == rule.files):
            empty.add(rule.files)
            pointer, message = f"/dataset/{name}", f"{', '.join(file.path for file in rule.files)} has no rows"
            hint = "is it the right file?"
        elif rule.fraction > 0:
            pointer = f"/dataset/{name}/fraction"
            message = f"a fraction of {rule.fraction:g} leaves no row for {name}"
            hint = f'take a larger fraction, name a file, or go without: "{name}": null'
        else:
            pointer, message = "/dataset/train", "the other splits leave no row for train"
            hint = "take smaller fractions, or add rows"
        yield recipe.finding("R306", pointer, message, hint)


def check_lengths(recipe: Recipe, model: ModelFacts | None, data: DataFacts) -> Iterator[Diagnostic]:
    """Rows fit into max_length."""
    if tasks.reads(recipe.task) == "image":
        return
    written, pointer = recipe.training.max_length, "/training/max_length"
    limit = auto_length(model, data).value if written == "auto" else written
    if written != "auto" and model is not None and not model.has_tokenizer:
        message = f"rows over {limit} tokens were not looked for: the model has no tokenizer.json"
        hint = "AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
        yield recipe.finding("R310", pointer, message, hint, severity="note")
    packs = recipe.training.packing is not False and (model is None or model.packs)
    fills = packs and tasks.module_of(recipe.task).PACKING == "fill"  # sequences that are filled lose nothing
    cut = [split for split in data.splits if not fills or split.rows.split != "train"]
    over = sum(split.rows_over(limit) for split in cut)
    if over and not isinstance(recipe.task, Windowed):
        total, longest = sum(split.rows.num_rows for split in cut), max(split.longest_row for split in cut)
        message = (
            f"{over:,} of {total:,} rows ({over / total:.1%}) are cut at {limit} tokens; the longest has {longest}"
        )
        most = model.max_positions if model is not None else None
        hint = f"the model takes up to {most}" if most is not None and longest > most else f"{longest} reads all"
        yield recipe.finding("R309", pointer, message, hint, severity="warning")


def check_overlaps(recipe: Recipe, data: DataFacts) -> Iterator[Diagnostic]:
    """Held-out texts or images are not in train, and train has none twice."""
    what = tasks.reads(recipe.task)
    for overlap in data.overlaps:
        pairs = [f"{row} = {twin}" for row, twin in overlap.first]
        more = f", and {overlap.num_rows - len(pairs)} more" if overlap.num_rows > len(pairs) else ""
        one = overlap.num_rows == 1
        if overlap.split == "train":
            message = f"{overlap.num_rows:,} train row{' repeats' if one else 's repeat'} the {what} of an earlier one"
            hint = "remove the repeats, unless they are meant to count more"
        else:
            message = f"{overlap.num_rows:,} {overlap.split} row{' stands' if one else 's stand'} in train as well"
            hint = f"remove them from one side: what was learnt by heart raises the {overlap.split} metrics"
        message += f": {', '.join(pairs)}{more}"
        at = overlap.first[0][0].at
        yield Diagnostic(code="R311", at=at, message=message, hint=hint, severity="warning")
