"""recipe init: a recipe from a data file and a few answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from compiler import tasks
from compiler.cli.draft import DEFAULT_MODEL, METHODS, Draft, check_draft, check_rows, flag_of, half_frozen
from compiler.cli.questions import (
    Asker,
    about_column,
    about_file,
    about_method,
    about_model,
    about_name,
    about_task,
    asked_roles,
    column_lines,
    known_column,
    output_fault,
)
from compiler.cli.rows import file_rows
from compiler.data.guesses import Column, columns_in
from compiler.diagnostics import Diagnostic, Place, RecipeError, render
from compiler.files import write_text
from compiler.loading import shown_path

F = TypeVar("F", bound=Callable[..., Any])


def column_options(command: F) -> F:
    """An option for each role that some task reads a column for: --text, --label."""
    for role in reversed(list(tasks.COLUMNS)):
        readers = [name for name, task in tasks.TASKS.items() if role in tasks.module_of(task).COLUMNS]
        only = f" of {' and '.join(readers)}" if len(readers) < len(tasks.TASKS) else ""
        command = click.option(flag_of(role), f"{role}_column", help=f"The column with the {role}{only}.")(command)
    return command


@click.command(
    epilog="Examples:  recipe init rows.jsonl    recipe init rows.csv --text review --label stars --yes -o stars.json"
)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--task", type=click.Choice(tuple(tasks.TASKS)), help="What is learnt. Default: guessed.")
@column_options
@click.option("--name", help="The recipe's name. Default: the data file's.")
@click.option("--model", help=f"A folder or hub id. Default: {DEFAULT_MODEL}.")
@click.option("--method", type=click.Choice(METHODS), help="What is trained. Default: full; freeze keeps half.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Default: NAME.json.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing; take what is guessed.")
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
def init(
    data: Path,
    task: str | None,
    name: str | None,
    model: str | None,
    method: str | None,
    output: Path | None,
    yes: bool,
    force: bool,
    **flags: str | None,
) -> None:
    """Look at the rows in DATA and write a recipe that passes `recipe check`.

    On a terminal it asks for what no flag says, and asks again after an answer that can't be.
    """
    ask = Asker(terminal=not yes and os.isatty(0))
    columns = look(data)
    given = {role: column for role in tasks.COLUMNS if (column := flags[f"{role}_column"]) is not None}
    named = {role: known_column(column, columns).name for role, column in given.items()}
    possible = possible_tasks(task, named)
    if ask.terminal:
        click.echo("\n".join(column_lines(data, columns)))
    name = ask(about_name(data), name)
    output = choose_output(ask, output or default_output(name, data), data, force=force)
    asked = ask(about_task(possible, columns, named), possible[0] if len(possible) == 1 else None)
    draft = Draft(name=name, data=data, output=output, task=tasks.TASKS[asked], columns={})
    draft = with_columns(ask, draft, columns, named)
    draft = replace(draft, model=ask(about_model(draft), model))
    draft = replace(draft, method=ask(about_method(), method))
    draft = half_frozen(draft) if draft.method == "freeze" else draft
    check_draft(draft)
    write_text(output, draft.text())
    click.echo(f"wrote {output}\nnext: recipe check {output} && recipe run {output}")


def look(data: Path) -> tuple[Column, ...]:
    """The columns of a data file, from its first rows. Raises RecipeError for a file that can't be read or has one."""
    columns = columns_in(row.values for row in file_rows(data))
    if len(columns) < 2:
        found = f'one column, "{columns[0].name}"' if columns else "no column"
        message = f"the rows have {found}, and a recipe reads two: the text and its answer"
        hint = "commas separate the columns of .csv, tabs those of .tsv; the first line names them"
        at = Place(file=shown_path(data))
        raise RecipeError([Diagnostic(code="R304", at=at, message=message, hint=hint)])
    return columns


def possible_tasks(task: str | None, named: Mapping[str, str]) -> list[str]:
    """The task that a flag says, or those that read every column that a flag names. Raises click's error for none."""
    roles = {name: tasks.module_of(known).COLUMNS for name, known in tasks.TASKS.items()}
    possible = [name for name in ([task] if task else roles) if set(named) <= set(roles[name])]
    if possible:
        return possible
    known = "; ".join(f"{name} reads {' and '.join(map(flag_of, read))}" for name, read in roles.items())
    who = f"the task {task}" if task else "no task"
    raise click.UsageError(f"{who} does not read {' and '.join(map(flag_of, named))}: {known}")


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


def with_columns(ask: Asker, draft: Draft, columns: Sequence[Column], named: Mapping[str, str]) -> Draft:
    """The draft with a column for each role, by which the rows pass `recipe check`.

    Raises RecipeError where they don't, and no other answer could change it.
    """
    roles = asked_roles(draft.task, columns, named)
    while True:
        chosen = dict(named)
        for role in roles:
            others = {other: column for other, column in chosen.items() if other != role}
            chosen[role] = ask(about_column(draft.task, role, columns, others), named.get(role))
        complete = replace(draft, columns={role: chosen[role] for role in roles})
        try:
            check_rows(complete)
        except RecipeError as error:
            if not (ask.terminal and _is_about(error, set(roles) - set(named))):
                raise
            click.echo(render(error.diagnostics, "text"))
        else:
            return complete


def _is_about(error: RecipeError, asked: set[str]) -> bool:
    """Whether a column is wrong for its role that was answered, not given by a flag."""
    return any(found.pointer in {f"/dataset/columns/{role}" for role in asked} for found in error.diagnostics)


def _or_force(output: Path, data: Path) -> str:
    replaceable = output.is_file() and output.resolve() != data.resolve()
    return ", or replace it with --force" if replaceable else ""
