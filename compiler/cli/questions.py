"""What `recipe init` asks: each question with its guess, and with what an answer has to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from compiler.cli.options import fact_source
from compiler.data.guesses import LOOKED_AT, Column, guess
from compiler.diagnostics import did_you_mean, printable
from compiler.hub import SourceError, open_model
from compiler.recipe import NAME

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
METHODS = ("full", "head", "lora")
_SHOWN = 40  # characters of a value


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answer where nobody gives one, and the value in an answer.

    `read` raises click's error, which says what is expected, for an answer that can't be.
    """

    what: str
    guess: str | None
    read: Callable[[str], str]


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
            raise click.UsageError(
                f"the {question.what} can't be guessed: name it with a flag (see recipe init --help)"
            )
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


def about_text(columns: Sequence[Column], label: str | None) -> Question:
    """The column with the text."""

    def read(answer: str) -> str:
        column = known_column(answer, columns)
        if column.name == label:
            raise click.UsageError(f'"{label}" is the column with the label')
        if not column.is_text:
            raise click.UsageError(f'"{column.name}" has no text in most rows ({_values(column)})')
        return column.name

    return Question("column with the text", guess("text", columns, [label or guess("label", columns)]), read)


def about_label(columns: Sequence[Column], text: str) -> Question:
    """The column with the label."""

    def read(answer: str) -> str:
        column = known_column(answer, columns)
        if column.name == text:
            raise click.UsageError(f'"{text}" is the column with the text')
        if 2 * column.labels <= column.filled:
            kinds = "a label is a name, a whole number, or true or false"
            raise click.UsageError(f'"{column.name}" has no label in most rows ({_values(column)}): {kinds}')
        if column.distinct == column.filled > 2:
            raise click.UsageError(f'"{column.name}" has another value in every row: labels repeat')
        return column.name

    return Question("column with the label", guess("label", columns, [text]), read)


def known_column(answer: str, columns: Sequence[Column]) -> Column:
    """The column of that name, spaces around it aside. Raises click's error, with the nearest one."""
    exact = [column for column in columns if column.name == answer]
    alike = [column for column in columns if column.name.strip() == answer.strip()]
    if not exact and len(alike) != 1:
        hint = did_you_mean(answer, [column.name for column in columns], noun="columns")
        raise click.UsageError(f'no column "{printable(answer)}": {hint}')
    return (exact or alike)[0]


def about_model(folder: Path) -> Question:
    """The model. `folder`: the recipe's, where a path starts from."""

    def read(answer: str) -> str:
        try:
            open_model(answer, None, folder, replace(fact_source(()).sources, offline=True))
        except SourceError as error:
            if error.code != "R403":  # that one is only not on this machine yet
                raise click.UsageError(f"{error.message}: {error.hint}") from None
        return answer

    return Question("model (a folder, or an id on the hub)", DEFAULT_MODEL, read)


def about_method() -> Question:
    """What is trained."""
    return Question("method (full; head: only the last layer; lora: small additions)", "full", _method)


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
    shown = [printable(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…") for value in column.examples]
    more = ", …" if column.distinct > len(shown) else ""
    return f"{column.distinct:,} value{'' if column.distinct == 1 else 's'}: {', '.join(shown)}{more}"
