"""recipe predict, recipe verify: a bundle at its receiver's, without a framework."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.cli.options import runs_option
from compiler.diagnostics import did_you_mean

if TYPE_CHECKING:
    from runtimes.bundle import Bundle
    from runtimes.manifest import Manifest

TEXT = "text"  # the role of what is answered
_ROWS_AT_ONCE = 1024


@click.command(
    epilog="Examples:  recipe predict quickstart --text 'a joy'    recipe predict BUNDLE --input rows.jsonl -o a.jsonl"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--text", "texts", multiple=True, help="A text to answer. Can be repeated.")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="Rows to answer: .jsonl, .json, .csv, .tsv, .parquet; - for JSONL on standard input.",
)
@click.option("--column", help="The column with the text. Default: the bundle's.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write answers here, as JSONL.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows computed at once.")
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="Threads; 0 for one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print answers as JSONL.")
@runs_option
def predict(
    bundle: Path,
    texts: tuple[str, ...],
    source: Path | None,
    column: str | None,
    output: Path | None,
    batch_size: int,
    threads: int,
    as_json: bool,
    runs_folder: Path,
) -> None:
    """Answer texts with BUNDLE: a bundle's folder, or a run. Needs onnxruntime, tokenizers and numpy alone."""
    if bool(texts) == (source is not None):
        raise click.UsageError("give texts with --text, or rows with --input")
    if output is not None and source is not None and output.resolve() == source.resolve():
        raise click.UsageError(f"{output} holds the rows: name another file for the answers")
    from runtimes import tasks

    opened = open_for(bundle, runs_folder, threads)
    column = column or opened.manifest.columns[TEXT]
    rows = ({column: text} for text in texts) if source is None else read_source(source)
    answers = answer(opened, rows, column, batch_size)
    line = tasks.module_of(opened.task).line
    if output is not None:
        write_answers(output, answers)
        return
    for row in answers:
        click.echo(
            json.dumps(row, ensure_ascii=False) if as_json or source else f"{line(row['prediction'])}  {row[column]}"
        )


def open_for(bundle: Path, runs_folder: Path, threads: int) -> Bundle:
    """The bundle in a folder, or the bundle of a run."""
    from runtimes.bundle import open_bundle

    return open_bundle(bundle_folder(bundle, runs_folder), threads=threads)


def bundle_folder(named: Path, runs_folder: Path) -> Path:
    """The folder of a bundle that is named by itself, by a run's folder or by a run's name."""
    candidates = [named, named / "bundle", runs_folder / named / "bundle"]
    found = next((folder for folder in candidates if (folder / "manifest.json").exists()), None)
    run = next((folder for folder in (named, runs_folder / named) if (folder / "plan.json").exists()), None)
    if found is None and run is not None:
        message = f"the run {run} has no bundle: it is unfinished, its gate failed, or its recipe has no export"
        raise click.UsageError(f"{message} (`recipe report {run}` says which)")
    if found is None and not named.exists():
        from compiler.cli.runs import run_folders

        known = [folder.name for folder in run_folders(runs_folder)]
        raise click.UsageError(f'no bundle or run "{named}": {did_you_mean(named.name, known, noun="runs")}')
    return found or named


def read_source(source: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file or of standard input. Raises click's error for one that can't be read."""
    if str(source) == "-":
        yield from _json_lines()
        return
    from compiler.data.readers import DataError, format_of, read_rows

    form = format_of(source)
    if form is None:
        raise click.UsageError(f"{source}: expected .jsonl, .json, .csv, .tsv or .parquet")
    try:
        for row in read_rows(source, form):
            yield dict(row.values)
    except DataError as error:
        raise click.ClickException(str(error)) from None


def _json_lines() -> Iterator[dict[str, Any]]:
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise click.ClickException(f"standard input, line {number}: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise click.ClickException(f"standard input, line {number}: a row is an object")
        yield value


def answer(bundle: Bundle, rows: Iterator[dict[str, Any]], column: str, batch_size: int) -> Iterator[dict[str, Any]]:
    """Each row with its prediction, the task's natural answer, in order; memory does not grow with the rows."""
    number = 0
    while portion := list(islice(rows, _ROWS_AT_ONCE)):
        inputs = [{TEXT: text_of(row, column, number + index)} for index, row in enumerate(portion, start=1)]
        for row, prediction in zip(portion, bundle.predict(inputs, batch_size), strict=True):
            yield {**row, "prediction": prediction}
        number += len(portion)


def text_of(row: dict[str, Any], column: str, number: int) -> str:
    """The text of a row. Raises click's error with the nearest column when it is not there."""
    text = row.get(column)
    if isinstance(text, str):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise click.ClickException(f'row {number}: "{column}" has half of a surrogate pair, which is no text')
        return text
    if column not in row:
        raise click.ClickException(
            f'row {number} has no "{column}": {did_you_mean(column, row, noun="it has")} (--column names it)'
        )
    raise click.ClickException(f'row {number}: "{column}" is not text')


def answered(data: Path, manifest: Manifest) -> list[Mapping[str, Any]]:
    """The rows of a file by role, their true answers among them, read as the rows that were trained on."""
    from compiler import tasks
    from compiler.data.texts import BadValueError

    reader = tasks.module_of(manifest.task).reader(manifest.task, manifest.columns)
    found: list[Mapping[str, Any]] = []
    for number, row in enumerate(read_source(data), start=1):
        try:
            found.append(reader.read(row).row)
        except BadValueError as error:
            raise click.ClickException(f"row {number}: {error}") from None
    return found


def write_answers(output: Path, answers: Iterator[dict[str, Any]]) -> None:
    """Writes answers as JSONL, whole or not at all."""
    from compiler.files import new_file

    count = 0
    with new_file(output) as file:
        for row in answers:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    click.echo(f"wrote {count} answers to {output}", err=True)


@click.command(epilog="Examples:  recipe verify runs/quickstart    recipe verify BUNDLE --data held-out.jsonl --json")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Labelled rows to measure on too."
)
@click.option("--threads", type=click.IntRange(0, 256), default=0, help="Threads; 0 for one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@runs_option
def verify(bundle: Path, data: Path | None, threads: int, as_json: bool, runs_folder: Path) -> None:
    """Prove that BUNDLE (or a run's) answers as the model it was made from. Exits 3 when it does not.

    Needs onnxruntime, tokenizers and numpy alone.
    """
    from runtimes.gate import report_lines, require_passed
    from runtimes.manifest import read_manifest
    from runtimes.verify_bundle import verify_bundle

    folder = bundle_folder(bundle, runs_folder)
    rows = answered(data, read_manifest(folder)) if data is not None else None
    verification = verify_bundle(folder, rows, threads=threads)
    click.echo(json.dumps(verification.to_json(), indent=2) if as_json else "\n".join(report_lines(verification)))
    require_passed(verification, code="E603", hint="the bundle is not what was proven: ask its sender for a whole one")
