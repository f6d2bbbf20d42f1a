"""recipe init: a recipe from a data file and a few answers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from compiler.cli.options import fact_source
from compiler.cli.rows import file_rows
from compiler.data.checks import check_data
from compiler.data.guesses import Column, columns_in, guess
from compiler.diagnostics import did_you_mean, stop_on_error
from compiler.document import Document, parse
from compiler.files import write_text
from compiler.reading import read_recipe
from compiler.shorthand import expand

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
METHODS = ("full", "head", "lora")


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
    """Look at the rows in DATA and write a recipe that passes `recipe check`."""
    columns = columns_in(row.values for row in file_rows(data))
    guessed_label = guess("label", columns, [text])
    guessed_text = guess("text", columns, [label or guessed_label])
    ask = _asker(yes)
    text = _known(ask("column with the text", text, guessed_text), columns)
    label = _known(ask("column with the label", label, guess("label", columns, [text]) or guessed_label), columns)
    if text == label:
        raise click.UsageError(f'the text and the label can\'t both be "{text}": name them with --text and --label')
    name = ask("name", name, re.sub(r"[^A-Za-z0-9._-]+", "-", data.stem).strip("-._") or "recipe")
    model = ask("model", model, DEFAULT_MODEL)
    method = ask("method (full, head, lora)", method, "full")
    output = output or default_output(name, data)
    if output.resolve() == data.resolve():
        raise click.UsageError(f"{output} holds the rows: name another file for the recipe with -o")
    if output.exists() and not force:
        raise click.UsageError(f"{output} is there already: choose another with -o, or --force")
    written = recipe_text(name=name, data=_relative(data, output), text=text, label=label, model=model, method=method)
    check_rows(written, output)
    write_text(output, written)
    click.echo(f"wrote {output}\nnext: recipe check {output} && recipe run {output}")


def default_output(name: str, data: Path) -> Path:
    """NAME.json in the working folder, or NAME-recipe.json where that is the data file."""
    output = Path(f"{name}.json")
    return Path(f"{name}-recipe.json") if output.resolve() == data.resolve() else output


def check_rows(written: str, output: Path) -> None:
    """Nothing when the recipe and its rows pass `recipe check`; raises RecipeError before anything is written."""
    root = parse(written, str(output), folder=str(output.resolve().parent)).root
    recipe = read_recipe(Document(expand(root), str(output)))
    stop_on_error(check_data(recipe, None, fact_source(()).data(recipe, None)))


def _asker(yes: bool) -> Callable[[str, str | None, str | None], str]:
    interactive = not yes and os.isatty(0)

    def ask(question: str, given: str | None, guess: str | None) -> str:
        if given is not None:
            return given
        if interactive:
            return str(click.prompt(question, default=guess))
        if guess is None:
            raise click.UsageError(f"the {question} can't be guessed: name it with a flag (see recipe init --help)")
        return guess

    return ask


def _known(column: str, columns: Sequence[Column]) -> str:
    names = [c.name for c in columns]
    if column not in names:
        raise click.UsageError(f'no column "{column}": {did_you_mean(column, names, noun="columns")}')
    return column


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
