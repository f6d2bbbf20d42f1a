"""What `recipe export` and `recipe verify --source` share: a model as it stands, its task, and rows to compare on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compiler import tasks
from compiler.cli.options import FiniteRange, cache_folder, mirror_folder, offline
from compiler.cli.rows import GivenRow, file_rows, refused
from compiler.data.images import placed
from compiler.data.texts import BadValueError
from compiler.diagnostics import did_you_mean
from compiler.recipe import Verify
from compiler.tasks import Task

if TYPE_CHECKING:
    from compiler.hub import Sources
    from runtimes.untuned import Found

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT = Verify()


def found_options(command: F) -> F:
    """The options of both commands: the task, the rows and their columns, and what the gate asks."""
    options = (
        click.option(
            "--task",
            "task",
            metavar="TASK",
            callback=_task,
            help="What the model is to do: a word as in a recipe, or an object with the task's keys. Default: what the "
            "architecture in its config.json answers.",
        ),
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            help="Rows to compare on, with answers or without: .jsonl, .json, .csv, .tsv, .parquet, or a folder of "
            "images. Default: a few that are made up, on which no metric is measured.",
        ),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="ROLE=NAME",
            help="The column of a role, as /dataset/columns in a recipe: text=snippet. A bare NAME is that of the "
            "text or image. Can be repeated.",
        ),
        click.option("--rows", type=click.IntRange(min=1), help="Compare on at most so many rows. Default: all."),
        click.option("--max-length", type=click.IntRange(min=2), help="Tokens of a row that are read."),
        click.option("--revision", help="The model's commit, branch or tag on the hub."),
        click.option(
            "--tolerance-factor",
            type=FiniteRange(min=0, min_open=True, max=100),
            default=DEFAULT.tolerance_factor,
            show_default=True,
            help="Outputs may differ by so many times the source's own float32 noise.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def find(
    model: str,
    task: Task | None,
    data: Path | None,
    columns: tuple[str, ...],
    *,
    rows: int | None,
    max_length: int | None,
    revision: str | None,
    tolerance_factor: float,
    told: bool = False,
) -> Found:
    """The model that is named, the task that it answers, and the rows. Raises SourceError, RecipeError or UsageError.

    `told`: with where the model is from, which may ask the hub for its base.
    Nothing but configurations and the headers of weights has been read until the rows are known to fit.
    """
    from compiler.cli.lineage import origin_of
    from compiler.hub import open_model
    from compiler.model_facts import model_facts
    from compiler.origin import NO_ORIGIN
    from compiler.plan import ModelFiles
    from compiler.tasks.own_head import answered_by
    from runtimes.untuned import Found

    sources = model_sources()
    files = open_model(model, revision, Path(), sources)
    facts = model_facts(files)
    config = json.loads(files.local("config.json").read_bytes())
    answered = answered_by(facts, config, task, max_length)
    named = columns_named(answered.task, columns)
    asked = tuple(each.rpartition("=")[2] for each in columns)
    given, has_answers = (None, False) if data is None else read_data(answered.task, named, data, asked=asked)
    return Found(
        name=Path(model).absolute().name,
        files=ModelFiles(id=facts.id, revision=facts.revision, files=facts.files),
        facts=facts,
        folder=files.fetch(sorted(facts.files)),
        task=answered.task,
        max_length=answered.max_length,
        columns=named,
        rows=given,
        metrics=answered.metrics if has_answers else (),
        verify=Verify(rows=rows, tolerance_factor=tolerance_factor),
        origin=origin_of(facts, files, sources) if told else NO_ORIGIN,
    )


def folder_of(model: str, revision: str | None) -> Path:
    """The folder that has the files of a model, which is a folder or a hub id. Raises SourceError."""
    from compiler.hub import open_model
    from compiler.model_facts import model_facts

    files = open_model(model, revision, Path(), model_sources())
    return files.fetch(sorted(model_facts(files).files))


def model_sources() -> Sources:
    """Where models are looked for, as the environment says."""
    from compiler.hub import Sources

    return Sources(mirror=mirror_folder(), cache=cache_folder(), offline=offline())


def columns_named(task: Task, written: tuple[str, ...]) -> dict[str, str]:
    """The column of each role of a task, as the command line names them. Raises UsageError."""
    roles, named = tasks.roles_of(task), {}
    for each in written:
        role, equals, name = each.partition("=")
        if not equals:
            role, name = tasks.module_of(task).INPUTS[0], role
        if role not in roles:
            hint = did_you_mean(role, roles, noun=f"{task.type} has")
            raise click.BadParameter(f'no role "{role}": {hint}', param_hint="--column")
        named[role] = name
    return tasks.columns_of(task, named)


def read_data(
    task: Task, columns: Mapping[str, str], data: Path, *, asked: Sequence[str] = ()
) -> tuple[list[Mapping[str, Any]], bool]:
    """The rows of a file by role, and whether they have answers: all of them, or none. Raises RecipeError.

    `asked`: columns that were named, which must be there.
    """
    rows = list(file_rows(data))
    if lacking := next((name for name in asked if name not in rows[0].values), None):
        raise refused(rows[0], BadValueError(lacking, "missing"), "name it with --column ROLE=NAME")
    answered = _is_answered(task, columns, rows[0])
    reader = tasks.module_of(task).reader(task, columns)
    image = tasks.image_column(task, columns)

    def by_role(row: GivenRow) -> Mapping[str, Any]:
        values = placed(row.values, image, row.folder)
        try:
            return reader.read(values).row if answered else reader.given(values)
        except BadValueError as error:
            raise refused(row, error, "or name it with --column ROLE=NAME") from None

    found = [by_role(row) for row in rows]
    if not answered:
        click.echo(f"note: {_unanswered(task, columns, data)}", err=True)
    return found, answered


def _is_answered(task: Task, columns: Mapping[str, str], row: GivenRow) -> bool:
    """Whether rows have answers, as the first one shows: not where what is read of it is there and the rest is not."""
    reader = tasks.module_of(task).reader(task, columns)
    values = placed(row.values, tasks.image_column(task, columns), row.folder)
    try:
        reader.read(values)
    except BadValueError as error:
        return not (error.column not in row.values and _is_given(task, columns, values))
    return True


def _is_given(task: Task, columns: Mapping[str, str], values: Mapping[str, object]) -> bool:
    """Whether a row has what the model reads."""
    try:
        tasks.module_of(task).reader(task, columns).given(values)
    except BadValueError:
        return False
    return True


def _unanswered(task: Task, columns: Mapping[str, str], data: Path) -> str:
    """What is said of rows without answers."""
    answers = [name for role, name in columns.items() if role not in tasks.module_of(task).INPUTS]
    said = " or ".join(f'"{name}"' for name in answers) or "with answers"
    example = next((role for role in columns if role not in tasks.module_of(task).INPUTS), "ROLE")
    return f"{data} has no column {said}: no metric is measured (name it with --column {example}=NAME)"


def _task(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Task | None:
    if value is None:
        return None
    from compiler.tasks.own_head import written_task

    try:
        return written_task(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def said_of(found: Found) -> str:
    """What was chosen for a model: its task, what that calls the outputs, and the length of its rows."""
    names = tasks.head_names(found.task) or ()
    shown = f" ({', '.join(names[:8])}{', ...' if len(names) > 8 else ''})" if names else ""
    length = f", rows of at most {found.max_length} tokens" if tasks.reads(found.task) == "text" else ""
    return f"{found.files.id}: {found.task.type}{shown}{length}"
