"""recipe init: a recipe from a data file and a few answers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from compiler.cli.options import fact_source
from compiler.cli.questions import (
    DEFAULT_MODEL,
    METHODS,
    Asker,
    about_file,
    about_label,
    about_method,
    about_model,
    about_name,
    about_text,
    column_lines,
    known_column,
    output_fault,
)
from compiler.cli.rows import file_rows
from compiler.data.checks import check_data
from compiler.data.guesses import Column, columns_in
from compiler.diagnostics import Diagnostic, Place, RecipeError, render, stop_on_error
from compiler.document import Document, parse
from compiler.files import write_text
from compiler.loading import shown_path
from compiler.reading import read_recipe
from compiler.recipe import Recipe
from compiler.shorthand import expand


@click.command(
    epilog="Examples:  recipe init rows.jsonl    recipe init rows.csv --text review --label stars --yes -o stars.json"
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--text", help="The column with the text.")
@click.option("--label", help="The column with the label.")
@click.option("--name", help="The recipe's name. Default: the data file's.")
@click.option("--model", help=f"A folder or hub id. Default: {DEFAULT_MODEL}.")
@click.option("--method", type=click.Choice(METHODS), help="What is trained. Default: full.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.json.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing; take what is guessed.")
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
def init(
    data: Path,
    text: str | None,
    label: str | None,
    name: str | None,
    model: str | None,
    method: str | None,
    output: Path | None,
    yes: bool,
    force: bool,
) -> None:
    """Look at the rows in DATA and write a recipe that passes `recipe check`.

    On a terminal it asks for what no flag says, and asks again after an answer that can't be.
    """
    ask = Asker(terminal=not yes and os.isatty(0))
    columns = look(data)
    text, label = (None if given is None else known_column(given, columns).name for given in (text, label))
    if ask.terminal:
        click.echo("\n".join(column_lines(data, columns)))
    name = ask(about_name(data), name)
    output = choose_output(ask, output or default_output(name, data), data, force=force)

    def written(text: str, label: str, model: str = DEFAULT_MODEL, method: str = "full") -> str:
        source = _relative(data, output)
        return recipe_text(name=name, data=source, text=text, label=label, model=model, method=method)

    text, label = choose_columns(ask, columns, (text, label), lambda *pair: check_rows(written(*pair), output))
    model = ask(about_model(output.resolve().parent), model)
    method = ask(about_method(), method)
    recipe = written(text, label, model, method)
    recipe_in(recipe, output)
    write_text(output, recipe)
    click.echo(f"wrote {output}\nnext: recipe check {output} && recipe run {output}")


def look(data: Path) -> tuple[Column, ...]:
    """The columns of a data file, from its first rows. Raises RecipeError for a file that can't be read or has one."""
    columns = columns_in(row.values for row in file_rows(data))
    if len(columns) < 2:
        found = f'one column, "{columns[0].name}"' if columns else "no column"
        message = f"the rows have {found}, and a recipe reads two: the text and its label"
        hint = "commas separate the columns of .csv, tabs those of .tsv; the first line names them"
        at = Place(file=shown_path(data))
        raise RecipeError([Diagnostic(code="R304", at=at, message=message, hint=hint)])
    return columns


def default_output(name: str, data: Path) -> Path:
    """NAME.json in the working folder, or NAME-recipe.json where that is the data file."""
    output = Path(f"{name}.json")
    return Path(f"{name}-recipe.json") if output.resolve() == data.resolve() else output


def choose_output(ask: Asker, output: Path, data: Path, *, force: bool) -> Path:
    """The file for the recipe. Raises click's error where it can't be written and nobody can be asked."""
    fault = output_fault(output, data, force=force)
    if fault is None:
        return output
    if not ask.terminal:
        raise click.UsageError(f"{fault}: name another file for the recipe with -o" + _or_force(output, data))
    click.echo(fault)
    return Path(ask(about_file(output, data)))


def choose_columns(
    ask: Asker, columns: Sequence[Column], given: tuple[str | None, str | None], check: Callable[[str, str], None]
) -> tuple[str, str]:
    """The columns with the text and the label, by which the rows pass `check`.

    Raises RecipeError where they don't, and no other answer could change it.
    """
    while True:
        text = ask(about_text(columns, given[1]), given[0])
        label = ask(about_label(columns, text), given[1])
        if text == label:
            raise click.UsageError(f'the text and the label can\'t both be "{text}": name them with --text and --label')
        try:
            check(text, label)
        except RecipeError as error:
            if not (ask.terminal and _is_about(error, given)):
                raise
            click.echo(render(error.diagnostics, "text"))
        else:
            return text, label


def _is_about(error: RecipeError, given: tuple[str | None, str | None]) -> bool:
    """Whether a column is wrong for its role that was answered, not given by a flag."""
    asked = {
        f"/dataset/columns/{role}" for role, column in zip(("text", "label"), given, strict=True) if column is None
    }
    return any(found.pointer in asked for found in error.diagnostics)


def check_rows(written: str, output: Path) -> None:
    """Nothing when the recipe and its rows pass `recipe check`; raises RecipeError before anything is written."""
    recipe = recipe_in(written, output)
    stop_on_error(check_data(recipe, None, fact_source(()).data(recipe, None)))


def recipe_in(written: str, output: Path) -> Recipe:
    """The recipe that a file would hold. Raises RecipeError."""
    root = parse(written, str(output), folder=str(output.resolve().parent)).root
    return read_recipe(Document(expand(root), str(output)))


def _or_force(output: Path, data: Path) -> str:
    replaceable = output.is_file() and output.resolve() != data.resolve()
    return ", or replace it with --force" if replaceable else ""


def _relative(data: Path, output: Path) -> str:
    return Path(os.path.relpath(data.resolve(), output.resolve().parent)).as_posix()


def recipe_text(*, name: str, data: str, text: str, label: str, model: str, method: str) -> str:
    """The recipe as its file holds it."""
    recipe = {
        "recipe": 1,
        "name": name,
        "task": "text-classification",
        "dataset": {
            "train": data,
            "validation": {"fraction": 0.1},
            "test": {"fraction": 0.1},
            "columns": {"text": text, "label": label},
        },
        "model": model,
        "method": method,
        "training": {"epochs": 3},
        "metrics": ["accuracy", "f1"],
        "export": ["onnx"],
    }
    return json.dumps(recipe, indent=2, ensure_ascii=False) + "\n"
