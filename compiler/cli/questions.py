"""What `recipe init` asks: each question with its guess, and with what an answer has to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from compiler import tasks
from compiler.cli.draft import DEFAULT_MODEL, METHODS, Draft, flag_of
from compiler.cli.options import fact_source
from compiler.data.guesses import LOOKED_AT, Column, guess_roles, other_task
from compiler.diagnostics import RecipeError, did_you_mean, printable, short
from compiler.recipe import NAME
from compiler.tasks import Kind, Task


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer where nobody gives one, and the value in an answer.

    `read` raises click's error, which says what is expected, for an answer that can't be.
    """

    what: str
    guess: str | None
    read: Callable[[str], str]
    flag: str = "a flag"  # what answers it on the command line


@dataclass(frozen=True, slots=True)
class Asker:
    """Puts questions to whoever sits at the terminal; without one, takes what is guessed."""

    terminal: bool

    def __call__(self, question: Question, given: str | None = None) -> str:
        """What is given, else answered or guessed. Raises click's error where nothing is."""
        if given is not None:
            return given
        if self.terminal:
            return click.prompt(
                question.what,
                default=question.guess or "",  # so that an empty answer is told what is expected too
                show_default=question.guess is not None,
                value_proc=lambda answer: question.read(answer.strip()),
            )
        if question.guess is None:
            raise click.UsageError(f"the {question.what} can't be guessed: name it with {question.flag}")
        return question.guess


def about_name(data: Path) -> Question:
    """The name of the recipe: the data file's, as far as a name can have its characters."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", data.stem)[:64].strip("-._")
    return Question("name of the recipe", stem or "recipe", _name)


def _name(answer: str) -> str:
    if not re.fullmatch(NAME, answer):
        expected = "letters, digits, dots, dashes and underscores, at most 64, the first a letter or digit"
        raise click.UsageError(f'"{printable(answer)}" is no name: a name has {expected}')
    return answer


def about_file(taken: Path, data: Path) -> Question:
    """The file of the recipe, where the one that it should have is there already."""
    stems = (taken.with_stem(f"{taken.stem}-{number}") for number in range(2, 1000))
    free = next((path for path in stems if not path.exists()), None)
    return Question("another file for the recipe", str(free) if free else None, lambda answer: _file(answer, data))


def _file(answer: str, data: Path) -> str:
    path = Path(answer).expanduser()
    fault = output_fault(path, data, force=False) if answer else "a file has a name"
    if fault:
        raise click.UsageError(f"{fault}: name one that is not there")
    return str(path)


def output_fault(output: Path, data: Path, *, force: bool) -> str | None:
    """Why the recipe can't be written to a file, or None."""
    if output.resolve() == data.resolve():
        return f"{output} holds the rows"
    if output.is_dir():
        return f"{output} is a folder"
    return f"{output} is there already" if output.exists() and not force else None


def about_task(possible: Sequence[str], columns: Sequence[Column], named: Mapping[str, str]) -> Question:
    """The task, of those that are possible. `named`: role -> the column that a flag says."""

    def read(answer: str) -> str:
        if answer not in possible:
            raise click.UsageError(f'no task "{printable(answer)}": {did_you_mean(answer, possible, noun="tasks")}')
        return answer

    filled = [name for name in possible if _is_filled(tasks.TASKS[name], columns, named)]
    meanings = "; ".join(f"{name}: {_meaning(tasks.TASKS[name])}" for name in possible)
    return Question(f"task ({meanings})", (filled or possible)[0], read)


def _meaning(task: Task) -> str:
    """What a task is, in the words that its documentation begins with."""
    sentence = (type(task).__doc__ or "").partition(".")[0]
    return sentence[:1].lower() + sentence[1:]


def asked_roles(task: Task, columns: Sequence[Column], named: Mapping[str, str]) -> dict[str, Kind]:
    """The roles that are to have a column. `named`: role -> the column that a flag says.

    Roles that may go without are among them where a flag names them; or as far as something looks like them, until
    there is something to read and something to answer.
    """
    module = tasks.module_of(task)
    roles = {role: module.COLUMNS[role] for role in tasks.columns_of(task, named)}
    found = guess_roles(roles, columns, named)
    asked = {role: kind for role, kind in roles.items() if role in named or role not in module.OPTIONAL}
    for role, kind in roles.items():
        if role in found and not _is_whole(task, asked):
            asked[role] = kind
    return {role: kind for role, kind in roles.items() if role in asked}


def _is_whole(task: Task, roles: Mapping[str, Kind]) -> bool:
    """Whether there is something to read among some roles of a task, and something to answer where it asks for that."""
    module = tasks.module_of(task)
    answers = {*module.COLUMNS} - {*module.INPUTS}
    return bool({*module.INPUTS} & {*roles}) and bool(not answers or answers & {*roles})


def _is_filled(task: Task, columns: Sequence[Column], named: Mapping[str, str]) -> bool:
    """Whether each role of a task that is to have a column has one that looks like it."""
    asked = asked_roles(task, columns, named)
    if tasks.written_role(task) is not None and not {*asked} <= {*named, *(column.name for column in columns)}:
        return False  # any two texts would do
    if tasks.answer_of(task) is None and not _has_name(task, columns):
        return False  # any text would do, also one that stands beside its label
    return _is_whole(task, asked) and len(guess_roles(asked, columns, named)) == len(asked)


def _has_name(task: Task, columns: Sequence[Column]) -> bool:
    """Whether a column has the very name of a part of a conversation."""
    roles = {role for role, kind in tasks.module_of(task).COLUMNS.items() if kind == "conversation"}
    return any(column.name in roles for column in columns)


def about_column(task: Task, role: str, columns: Sequence[Column], others: Mapping[str, str]) -> Question:
    """The column of a role. `others`: the other roles that have their column already."""
    roles = tasks.module_of(task).COLUMNS

    def read(answer: str) -> str:
        column = known_column(answer, columns)
        owner = next((other for other, name in others.items() if name == column.name), None)
        if owner is not None:
            raise click.UsageError(f'"{column.name}" is the column with the {owner}')
        fault = _unfit(roles[role], column)
        if fault:
            raise click.UsageError("; ".join(filter(None, (fault, other_task(task, role, column)))))
        return column.name

    guessed = guess_roles(roles, columns, others).get(role)
    return Question(f"column with the {role}", guessed, read, flag=flag_of(role))


def _unfit(kind: Kind, column: Column) -> str:
    """Why a column can't be of a kind; empty where it can."""
    match kind:
        case "text" if not column.is_text:
            return f'"{column.name}" has no text in most rows ({_values(column)})'
        case "label" if 2 * column.labels <= column.filled:
            kinds = "a label is a name, a whole number, or true or false"
            return f'"{column.name}" has no label in most rows ({_values(column)}): {kinds}'
        case "label" if column.distinct == column.filled > 2:
            return f'"{column.name}" has another value in every row: labels repeat'
        case "tokens" | "tags" if not column.is_words:
            return f'"{column.name}" has no list of words in most rows ({_values(column)})'
        case "spans" if not column.is_spans:
            return f'"{column.name}" has no list of spans in most rows ({_values(column)})'
        case "number" if 2 * column.numbers <= column.filled:
            return f'"{column.name}" has no number in most rows ({_values(column)})'
        case _:
            return ""


def known_column(answer: str, columns: Sequence[Column]) -> Column:
    """The column of that name, spaces around it aside. Raises click's error, with the nearest one."""
    exact = [column for column in columns if column.name == answer]
    alike = [column for column in columns if column.name.strip() == answer.strip()]
    if not exact and len(alike) != 1:
        hint = did_you_mean(answer, [column.name for column in columns], noun="columns")
        raise click.UsageError(f'no column "{printable(answer)}": {hint}')
    return (exact or alike)[0]


def about_model(draft: Draft) -> Question:
    """The model of a recipe, which has to be there."""

    def read(answer: str) -> str:
        try:
            fact_source(()).model(replace(draft, model=answer).recipe())
        except RecipeError as error:
            found = error.diagnostics[0]
            raise click.UsageError(f"{found.message}: {found.hint}") from None
        return answer

    return Question("model (a folder, or an id on the hub)", DEFAULT_MODEL, read)


def about_method() -> Question:
    """What is trained."""
    kinds = "full; freeze: the later half of the layers; head: only the last layer; lora: small additions"
    return Question(f"method ({kinds})", "full", _method)


def _method(answer: str) -> str:
    if answer not in METHODS:
        raise click.UsageError(f'no method "{printable(answer)}": {did_you_mean(answer, METHODS, noun="methods")}')
    return answer


def column_lines(data: Path, columns: Sequence[Column]) -> list[str]:
    """The columns of a file, for someone who is about to choose."""
    first = f" (by the first {LOOKED_AT:,} rows)" if any(c.filled == LOOKED_AT for c in columns) else ""
    width = max(len(printable(column.name)) for column in columns)
    return [
        f"{data} has {len(columns)} columns{first}:",
        *(f"  {printable(column.name):<{width}}  {_described(column)}" for column in columns),
    ]


def _described(column: Column) -> str:
    if not column.filled:
        return "empty"
    if column.is_label or not column.is_text:
        return _values(column)
    return f"text of {column.mean_length:,.0f} characters on average"


def _values(column: Column) -> str:
    if not column.filled:
        return "nothing"
    shown = [printable(short(value)) for value in column.examples]
    more = ", …" if column.distinct > len(shown) else ""
    return f"{column.distinct:,} value{'' if column.distinct == 1 else 's'}: {', '.join(shown)}{more}"
