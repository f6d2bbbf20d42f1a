"""recipe tokenizer: a model's tokenizer, trained on rows of one's own, for training from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.options import cache_folder, mirror_folder, offline

if TYPE_CHECKING:
    from compiler.hub import Files
    from compiler.new_tokenizer import NewTokenizer


@click.command(
    epilog="Example:  recipe tokenizer HuggingFaceTB/SmolLM2-135M-Instruct rows.jsonl --vocab-size 8000 -o models/own"
)
@click.argument("model")
@click.argument("rows", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--vocab-size", type=click.IntRange(min=2), default=8000, show_default=True, help="Tokens, at most.")
@click.option("--column", "columns", multiple=True, help="A column that is read. Default: every text of a row.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The new folder: configuration and tokenizer, without weights.",
)
def tokenizer(model: str, rows: tuple[Path, ...], vocab_size: int, columns: tuple[str, ...], output: Path) -> None:
    """Train the tokenizer of MODEL anew on ROWS, and write a folder that "method": "scratch" begins with.

    It keeps MODEL's rules, special tokens and chat template. MODEL is a folder or a hub id, as in a recipe.
    """
    from compiler.files import new_folder
    from compiler.hub import Sources, open_model
    from compiler.new_tokenizer import TokenizerError, train_tokenizer
    from compiler.tokenizer_files import TOKENIZER

    if output.exists():
        raise click.UsageError(f"{output} is there already: name another folder")
    files = open_model(model, None, Path(), Sources(mirror=mirror_folder(), cache=cache_folder(), offline=offline()))
    if TOKENIZER not in files.names:
        raise click.UsageError(f"{model} has no {TOKENIZER}")
    try:
        trained = train_tokenizer(files.local(TOKENIZER).read_text(encoding="utf-8"), _texts(rows, columns), vocab_size)
    except TokenizerError as error:
        raise click.UsageError(f"{model}: {error}") from None
    with new_folder(output) as folder:
        (folder / TOKENIZER).write_text(trained.content, encoding="utf-8")
        _write(files, trained, folder)
    click.echo(f'{trained.vocab_size:,} tokens; in a recipe: "model": "{_named(output)}", "method": "scratch"')


def _named(folder: Path) -> str:
    """A folder as a recipe names it."""
    return str(folder) if folder.is_absolute() else f"./{folder}"


def _write(files: Files, trained: NewTokenizer, folder: Path) -> None:
    """The other files of the model, numbered anew."""
    from compiler.templates import SPECIAL_TOKENS_FILE, TEMPLATE_FILE

    changed: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
        "config.json": trained.renumbered,
        "generation_config.json": trained.renumbered,
        "tokenizer_config.json": trained.decoders,
    }
    for name in files.names:
        if name in changed:
            value = changed[name](json.loads(files.local(name).read_text(encoding="utf-8")))
            (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        elif name in (SPECIAL_TOKENS_FILE, TEMPLATE_FILE):
            (folder / name).write_bytes(files.local(name).read_bytes())


def _texts(rows: tuple[Path, ...], columns: tuple[str, ...]) -> Iterator[str]:
    """The texts of all rows. Raises RecipeError about a file that can't be read, or has not the columns."""
    from compiler.cli.rows import file_rows, refused
    from compiler.data.texts import BadValueError
    from compiler.new_tokenizer import texts_in

    for path in rows:
        for row in file_rows(path):
            for column in columns or tuple(row.values):
                if column not in row.values:
                    lacking = BadValueError(column, f'the row has no column "{column}"')
                    raise refused(row, lacking, "name another one with --column")
                yield from texts_in(row.values[column])
